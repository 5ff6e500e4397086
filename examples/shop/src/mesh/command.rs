//! Short commands: run to their end, and an error that says what they said.

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// Runs `program` with `arguments`; its standard output.
pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    output(command).await
}

/// Runs `command`; its standard output. An exit code other than 0 is an error with what it wrote on standard error.
pub async fn output(mut command: Command) -> anyhow::Result<String> {
    let shown = shown(command.as_std());
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one could type it.
fn shown(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Feeds `lines` to `ip -batch -`, in the namespace if one is named.
pub async fn ip_batch(namespace: Option<&str>, lines: &str) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]).kill_on_drop(true);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().context("cannot run `ip`")?;
    if let Some(mut stdin) = child.stdin.take() {
        // When ip stops reading it has said why, which is the better error.
        drop(stdin.write_all(lines.as_bytes()).await);
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("`ip -batch` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
