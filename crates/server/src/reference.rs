//! `cometmq settings`: the reference of all settings, generated from the tables that read them.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::config::{BrokerSettings, NamesrvSettings, Settings};

/// Flags of `cometmq settings`.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// Whose settings
    role: Role,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Those of broker.conf
    Broker,
    /// Those of namesrv.conf
    Namesrv,
}

/// Runs the command.
pub(crate) fn run(args: &SettingsArgs) -> Result<ExitCode> {
    let page = match args.role {
        Role::Broker => page::<BrokerSettings>("broker.conf"),
        Role::Namesrv => page::<NamesrvSettings>("namesrv.conf"),
    };
    print!("{page}");
    Ok(ExitCode::SUCCESS)
}

/// A Markdown page: the keys that act, then those that only get a warning, by reason.
fn page<S: Settings>(file: &str) -> String {
    let mut page =
        format!("# Settings of {file}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n");
    for row in S::describe() {
        let names: Vec<&str> = std::iter::once(row.key).chain(row.aliases.iter().copied()).collect();
        let own = if row.own { " (not a key of RocketMQ)" } else { "" };
        let unit = if row.unit.is_empty() { String::new() } else { format!(" {}", row.unit) };
        page += &format!(
            "| `{}` | {}{unit} | {} | {}{own} |\n",
            names.join("`, `"),
            row.default,
            row.allowed.replace('|', "\\|"),
            row.doc.trim(),
        );
    }
    page += "\n## Keys of RocketMQ that have no effect\n\nA file that sets one of them gets a warning with the reason.\n";
    for group in S::UNIMPLEMENTED {
        let keys: Vec<String> = group.keys().map(|key| format!("`{key}`")).collect();
        page += &format!("\n**{}**\n\n{}\n", group.reason, keys.join(", "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_the_docs_is_up_to_date() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/");
        for (name, page) in [
            ("settings-broker.md", page::<BrokerSettings>("broker.conf")),
            ("settings-namesrv.md", page::<NamesrvSettings>("namesrv.conf")),
        ] {
            let path = format!("{docs}{name}");
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                std::fs::write(&path, &page).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == page, "docs/{name} is old: run the tests with UPDATE_EXPECT=1");
        }
    }
}
