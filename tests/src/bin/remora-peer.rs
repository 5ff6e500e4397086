//! An application for the end-to-end tests: `remora-peer http|echo|greeter|closer --listen ADDRESS --name NAME --delay MS`.

use remora_test::app::{Behaviour, http, tcp};

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let kind = words.next().unwrap_or_default();
    let behaviour = Behaviour::parse(words)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match kind.as_str() {
            "http" => http::serve(behaviour).await,
            "echo" => tcp::serve(tcp::Kind::Echo, behaviour).await,
            "greeter" => tcp::serve(tcp::Kind::Greeter, behaviour).await,
            "closer" => tcp::serve(tcp::Kind::Closer, behaviour).await,
            _ => anyhow::bail!("unknown application {kind:?}: http, echo, greeter or closer"),
        }
    })
}
