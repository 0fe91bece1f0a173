//! The roles that a process can take: name server, broker, both.

mod broker;
mod cold;
mod machine;
mod namesrv;
mod pace;
mod registration;
pub(crate) mod workers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use cometmq_remoting::Workers;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{BrokerArgs, NamesrvArgs, ServeArgs};
use crate::config::{BrokerSettings, Loaded, NamesrvSettings, Override, Settings};

/// `cometmq serve`: name server and broker in one process.
pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode> {
    let data = args.data.as_deref().unwrap_or(Path::new("./data")).display().to_string();
    let bind = args.bind.map(|address| address.to_string());
    let ports =
        [args.namesrv_port.map(|port| port.to_string()), args.broker_port.map(|port| port.to_string())];
    let mut broker_overrides = Vec::new();
    if args.data.is_some() || args.config.is_none() {
        broker_overrides.push(Override { key: "storePathRootDir", value: &data, origin: "--data" });
    }
    if let Some(address) = &bind {
        broker_overrides.push(Override { key: "bindAddress", value: address, origin: "--bind" });
    }
    if let Some(port) = &ports[1] {
        broker_overrides.push(Override { key: "listenPort", value: port, origin: "--broker-port" });
    }
    let broker_settings: BrokerSettings = load(args.config.as_deref(), &broker_overrides)?;
    // The name server listens where the broker does, and keeps its file with the broker's, whoever says where that is.
    let bind = broker_settings.bind_address.to_string();
    let kv = broker_settings.store_root.join("namesrv/kvConfig.json").display().to_string();
    let mut namesrv_overrides = vec![
        Override { key: "bindAddress", value: &bind, origin: "--bind" },
        Override { key: "kvConfigPath", value: &kv, origin: "--data" },
    ];
    if let Some(port) = &ports[0] {
        namesrv_overrides.push(Override { key: "listenPort", value: port, origin: "--namesrv-port" });
    }
    let namesrv_settings: NamesrvSettings = load(None, &namesrv_overrides)?;
    run(async move |stop, workers| {
        let own = SocketAddr::new(reachable(namesrv_settings.bind_address), namesrv_settings.listen_port);
        let namesrv = namesrv::NamesrvRole::start(&namesrv_settings)?;
        let broker = broker::BrokerRole::start(&broker_settings, Some(own)).await?;
        broker.announce_boot();
        // The broker goes first, so that it can still tell the name server.
        let (broker_stop, namesrv_stop) = (stop.clone(), broker.stopped());
        let (broker, namesrv) =
            tokio::join!(broker.run(workers, broker_stop), namesrv.run(workers, namesrv_stop));
        broker.and(namesrv)
    })
}

/// `cometmq namesrv`.
pub(crate) fn namesrv(args: &NamesrvArgs) -> Result<ExitCode> {
    let settings: NamesrvSettings = load(args.config.as_deref(), &[])?;
    if args.print {
        print!("{}", settings.print());
        return Ok(ExitCode::SUCCESS);
    }
    run(async move |stop, workers| namesrv::NamesrvRole::start(&settings)?.run(workers, wait(stop)).await)
}

/// `cometmq broker`.
pub(crate) fn broker(args: &BrokerArgs) -> Result<ExitCode> {
    let mut overrides = Vec::new();
    if let Some(name_servers) = &args.name_servers {
        overrides.push(Override { key: "namesrvAddr", value: name_servers, origin: "-n" });
    }
    let data = args.data.as_ref().map(|data| data.display().to_string());
    if let Some(data) = &data {
        overrides.push(Override { key: "storePathRootDir", value: data, origin: "--data" });
    }
    let mut settings: BrokerSettings = load(args.config.as_deref(), &overrides)?;
    // The last resort, as with every RocketMQ program.
    if let (true, Ok(name_servers)) = (settings.name_servers.is_empty(), std::env::var("NAMESRV_ADDR")) {
        overrides.push(Override { key: "namesrvAddr", value: &name_servers, origin: "NAMESRV_ADDR" });
        settings = BrokerSettings::load(args.config.as_deref(), &overrides)?.settings;
    }
    if args.print || args.print_important {
        print!("{}", settings.print());
        return Ok(ExitCode::SUCCESS);
    }
    run(async move |stop, workers| {
        let broker = broker::BrokerRole::start(&settings, None).await?;
        broker.announce_boot();
        broker.run(workers, stop).await
    })
}

/// Reads the settings of a role and shows the warnings of its file.
fn load<S: Settings>(file: Option<&Path>, overrides: &[Override<'_>]) -> Result<S> {
    let Loaded { settings, warnings } = S::load(file, overrides)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(settings)
}

/// Runs a role until SIGTERM or SIGINT asks it to stop. Workers carry its connections; this thread has the rest, such as
/// accepting them, and what would keep it from that for long is done elsewhere.
fn run(role: impl AsyncFnOnce(watch::Receiver<bool>, &Workers) -> Result<()>) -> Result<ExitCode> {
    machine::raise_open_files_limit();
    let workers = workers::start()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = Arc::new(stop);
        let on_signal = Arc::clone(&stop);
        let signals = tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("asked to stop");
            on_signal.send_replace(true);
        });
        let result = role(stopping, &workers).await;
        signals.abort();
        result
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Ready when the role is to stop.
async fn wait(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone: time to stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// An address at which this machine reaches a socket bound to `bind`.
fn reachable(bind: IpAddr) -> IpAddr {
    if bind.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bind }
}
