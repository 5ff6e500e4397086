//! The command line of `remora-certs`.

mod init;
mod issue;
mod revoke;
mod rotate;
#[cfg(feature = "server")]
mod serve;
mod token;
mod value;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};

use self::init::Init;
use self::issue::Issue;
use self::revoke::Revoke;
use self::rotate::Rotate;
use self::token::Token;
use crate::Error;
use crate::show::Report;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a certificate authority, issues workload identities (X.509-SVIDs) and explains certificates.
#[derive(Debug, Parser)]
#[command(name = "remora-certs", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority: a root and an intermediate in a directory. Never overwrites one.
    Init(Init),
    /// Issue an SVID: a key and a certificate for one SPIFFE ID, with the trust bundle beside them.
    Issue(Issue),
    /// Make a join token: with it, one workload gets its first certificate from `remora-certs serve`.
    Token(Token),
    /// Replace what signs or what is trusted, in steps that break nothing; or say how far that is.
    #[command(subcommand)]
    Rotate(Rotate),
    /// Take certificates back before they end, by revocation lists.
    Revoke(Revoke),
    /// Serve the authority: workloads prove who they are and get their certificates, over gRPC.
    #[cfg(feature = "server")]
    Serve(Box<serve::Serve>),
    /// Explain certificates, bundles or directories. Keys are never shown.
    Show(Show),
}

#[derive(Debug, Args)]
struct Show {
    /// Certificates, bundles, or directories with them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Does what the command line says; what a person reads goes to `out`.
///
/// # Errors
/// What failed, and on which file. Nothing is half done: files appear whole or not at all.
pub fn run(cli: Cli, out: &mut dyn Write) -> Result<(), Error> {
    match cli.command {
        Command::Init(arguments) => init::run(&arguments, out),
        Command::Issue(arguments) => issue::run(&arguments, out),
        Command::Rotate(command) => rotate::run(&command, out),
        Command::Revoke(arguments) => revoke::run(&arguments, out),
        Command::Token(arguments) => token::run(&arguments, out),
        #[cfg(feature = "server")]
        Command::Serve(arguments) => serve::serve(*arguments),
        Command::Show(arguments) => show(&arguments, out),
    }
}

fn show(arguments: &Show, out: &mut dyn Write) -> Result<(), Error> {
    let report = Report::of(&arguments.paths, SystemTime::now())?;
    match arguments.json {
        true => report.write_json(out),
        false => report.write_text(out),
    }
    .map_err(Error::Output)
}

#[cfg(test)]
mod tests;
