//! The layers: which crate may know which, and which ones stay free of a runtime.

use super::Problem;

/// What a crate may depend on.
struct Layer {
    /// Folder in `crates/`.
    name: &'static str,
    /// Crates of ours that it may know.
    below: &'static [&'static str],
    /// Whether it may have tasks and sockets.
    tokio: bool,
}

const LAYERS: &[Layer] = &[
    Layer { name: "protocol", below: &[], tokio: false },
    Layer { name: "store", below: &["protocol"], tokio: false },
    Layer { name: "namesrv", below: &["protocol"], tokio: false },
    Layer { name: "broker", below: &["protocol", "store"], tokio: false },
    Layer { name: "remoting", below: &["protocol"], tokio: true },
    Layer { name: "client", below: &["protocol", "remoting"], tokio: true },
    Layer {
        name: "server",
        below: &["protocol", "store", "namesrv", "broker", "remoting", "client"],
        tokio: true,
    },
    Layer { name: "fuzz", below: &["protocol", "store"], tokio: false },
    Layer { name: "xtask", below: &["protocol", "store", "remoting", "client"], tokio: true },
    Layer { name: "sim", below: &["protocol", "store", "namesrv", "broker"], tokio: false },
];

/// The feature of the store with mistakes that tests switch on.
const PLANTED: &str = "planted-bugs";

/// Checks the manifest of the crate in folder `name`.
pub(super) fn check(name: &str, manifest: &str) -> Vec<Problem> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        let message =
            format!("crate `{name}` has no layer: give it one in crates/xtask/src/tidy/manifest.rs");
        return vec![Problem { line: 1, message }];
    };
    let layers = dependencies(manifest).filter_map(|(line, name)| complain(layer, line, name));
    layers.chain(planted(name, manifest)).collect()
}

/// Each line of a manifest that asks for the store's planted mistakes, which must not get into any binary: only the
/// simulator's tests may. `name` is empty for the manifest of the workspace.
pub(super) fn planted(name: &str, manifest: &str) -> Vec<Problem> {
    let mut section = "";
    let mut problems = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.starts_with('[') {
            section = line;
        }
        let may = match name {
            "sim" => section.starts_with("[dev-dependencies"),
            // Its own declaration.
            "store" => section == "[features]" && line.starts_with(PLANTED),
            _ => false,
        };
        if line.contains(PLANTED) && !may {
            let message = format!("only the tests of `sim` may ask for `{PLANTED}` of the store");
            problems.push(Problem { line: index + 1, message });
        }
    }
    problems
}

fn complain(layer: &Layer, line: usize, dependency: &str) -> Option<Problem> {
    let message = match dependency.strip_prefix("cometmq-") {
        Some(ours) if !layer.below.contains(&ours) => {
            let may = if layer.below.is_empty() { "none of ours".to_owned() } else { layer.below.join(", ") };
            format!("`{}` must not depend on `{ours}`, only on {may}", layer.name)
        }
        None if dependency == "tokio" && !layer.tokio => {
            format!("`{}` is a machine without runtime: tokio belongs to the shells around it", layer.name)
        }
        _ => return None,
    };
    Some(Problem { line, message })
}

/// Line and package name of each dependency, of all kinds and targets.
fn dependencies(manifest: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    manifest.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let dependency = match line.strip_prefix('[') {
            Some(header) => {
                let (head, last) = header.trim_end_matches(']').rsplit_once('.').unwrap_or(("", header));
                let last = last.trim_end_matches(']');
                inside = is_list(last);
                // [dependencies.tokio]
                is_list(head.rsplit('.').next().unwrap_or_default()).then_some(last)
            }
            None if inside => renamed(line).or_else(|| line.split(['.', '=']).next()),
            None => None,
        };
        let name = dependency?.trim().trim_matches('"');
        (!name.is_empty()).then_some((index + 1, name))
    })
}

fn is_list(section: &str) -> bool {
    matches!(section, "dependencies" | "dev-dependencies" | "build-dependencies")
}

/// The package behind `name = { package = "…" }`.
fn renamed(line: &str) -> Option<&str> {
    let (_, after) = line.split_once("package")?;
    after.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, manifest: &str) -> Vec<String> {
        check(name, manifest)
            .into_iter()
            .map(|problem| format!("{}: {}", problem.line, problem.message))
            .collect()
    }

    #[test]
    fn a_dependency_downwards_is_fine() {
        let manifest = "[package]\nname = \"cometmq-broker\"\n\n[dependencies]\ncometmq-store.workspace = true\n\
                        cometmq-protocol = { path = \"../protocol\" }\nbytes = \"1\"\n";
        assert_eq!(messages("broker", manifest), [""; 0]);
        assert_eq!(messages("server", "[dependencies]\ntokio.workspace = true\n"), [""; 0]);
    }

    #[test]
    fn a_dependency_upwards_is_reported_with_its_line() {
        let manifest =
            "[dependencies]\nbytes = \"1\"\n\n[dev-dependencies]\ncometmq-broker.workspace = true\n";
        let expected = "5: `store` must not depend on `broker`, only on protocol";
        assert_eq!(messages("store", manifest), [expected]);
        let expected = "5: `protocol` must not depend on `broker`, only on none of ours";
        assert_eq!(messages("protocol", manifest), [expected]);
    }

    #[test]
    fn machines_have_no_runtime_in_whatever_form_it_is_declared() {
        let manifests = [
            "[dependencies]\ntokio = \"1\"\n",
            "[dependencies.tokio]\nversion = \"1\"\n",
            "[target.'cfg(unix)'.dev-dependencies]\ntokio.workspace = true\n",
            "[build-dependencies]\nruntime = { version = \"1\", package = \"tokio\" }\n",
        ];
        for manifest in manifests {
            assert_eq!(messages("namesrv", manifest).len(), 1, "{manifest}");
        }
        assert_eq!(messages("namesrv", "[features]\ntokio = []\n# tokio = \"1\"\n"), [""; 0]);
    }

    #[test]
    fn planted_bugs_are_for_the_tests_of_the_simulator() {
        let asked = "cometmq-store = { workspace = true, features = [\"planted-bugs\"] }\n";
        let (tests, plain) = (format!("[dev-dependencies]\n{asked}"), format!("[dependencies]\n{asked}"));
        let expected = ["2: only the tests of `sim` may ask for `planted-bugs` of the store"];
        assert_eq!(messages("sim", &tests), [""; 0]);
        assert_eq!(messages("sim", &plain), expected);
        assert_eq!(messages("broker", &tests), expected);
        assert_eq!(planted("", "[workspace.dependencies]\nstore = { features = ['planted-bugs'] }").len(), 1);
        assert_eq!(messages("store", "[features]\nplanted-bugs = [] # planted-bugs\n"), [""; 0]);
        assert_eq!(messages("store", "[features]\ndefault = [\"planted-bugs\"]\n"), expected);
    }

    #[test]
    fn a_crate_without_layer_is_reported() {
        assert!(messages("util", "")[0].starts_with("1: crate `util` has no layer"));
    }
}
