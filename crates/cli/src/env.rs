//! `claviger env`: the environment that points unmodified official tools at a server.
//!
//! Invariant: what is printed can be given to the shell's `eval` whatever the values hold.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::args::Global;
use crate::failure::Failure;

/// The services whose REST endpoint `gcloud` takes from a variable. Storage has a path of its own.
const SERVICES: [&str; 6] =
    ["CLOUDKMS", "BIGTABLEADMIN", "DATAFLOW", "LOGGING", "ORGPOLICY", "CLOUDRESOURCEMANAGER"];

const EXAMPLES: &str = "\
Examples:
  eval \"$(claviger env)\"
  claviger env --shell fish | source
  claviger env --endpoint http://127.0.0.1:9801 --project birds --shell json";

/// `claviger env`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// How it is written
    #[arg(long, value_enum, default_value_t = Shell::Sh)]
    shell: Shell,
}

/// A way to write an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// For bash, zsh and other shells of that family
    Sh,
    /// For fish
    Fish,
    /// An object of strings
    Json,
}

/// Prints the environment.
///
/// # Errors
/// When the endpoint is no URL or standard output cannot be written.
pub(crate) fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    let url = crate::client::url(&global.endpoint)?;
    let project = crate::names::project(&global.project)?;
    let token_file = global
        .token_file
        .as_deref()
        .map(std::path::absolute)
        .transpose()
        .map_err(|error| Failure::local(format!("there is no working directory: {error}")))?;
    let variables = variables(&url, project.project(), settings_folder(), token_file.as_deref());
    if token_file.is_some() && !global.quiet {
        crate::output::say(&needed(&url));
    }
    crate::output::write_text(&written(&variables, options.shell))
}

/// The environment of programs that use Google's and Beam's libraries.
pub(crate) fn for_programs(url: &str, project: &str) -> Vec<(String, String)> {
    let mut variables = variables(url, project, PathBuf::new(), None);
    variables.retain(|(name, _)| !name.starts_with("CLOUDSDK_"));
    variables
}

/// A folder for `gcloud`'s settings, so that the user's own stay as they are.
fn settings_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let settings = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    settings.unwrap_or_else(std::env::temp_dir).join("claviger").join("gcloud")
}

/// The environment of tools that are to talk to the server at `url`.
fn variables(url: &str, project: &str, settings: PathBuf, token: Option<&Path>) -> Vec<(String, String)> {
    let address = url.trim_start_matches("http://");
    let mut variables = vec![
        ("CLAVIGER_ENDPOINT".to_owned(), url.to_owned()),
        ("CLAVIGER_PROJECT".to_owned(), project.to_owned()),
        ("GOOGLE_CLOUD_PROJECT".to_owned(), project.to_owned()),
        ("BIGTABLE_EMULATOR_HOST".to_owned(), address.to_owned()),
        ("STORAGE_EMULATOR_HOST".to_owned(), url.to_owned()),
        ("CLOUDSDK_CONFIG".to_owned(), settings.to_string_lossy().into_owned()),
        ("CLOUDSDK_CORE_PROJECT".to_owned(), project.to_owned()),
        ("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING".to_owned(), "true".to_owned()),
        ("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK".to_owned(), "true".to_owned()),
    ];
    match token {
        // gcloud reads it at each use, as we do.
        Some(file) => variables.extend(
            ["CLAVIGER_TOKEN_FILE", "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"]
                .map(|name| (name.to_owned(), file.to_string_lossy().into_owned())),
        ),
        None => variables.push(("CLOUDSDK_AUTH_DISABLE_CREDENTIALS".to_owned(), "true".to_owned())),
    }
    for service in SERVICES {
        variables.push((format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{service}"), format!("{url}/")));
    }
    variables.push(("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE".to_owned(), format!("{url}/storage/v1/")));
    variables
}

/// What no variable says of a server that asks for tokens.
fn needed(url: &str) -> String {
    format!(
        "Google's libraries take credentials beside these: a service account's key as GOOGLE_APPLICATION_CREDENTIALS, with {url}/token as its token_uri."
    )
}

fn written(variables: &[(String, String)], shell: Shell) -> String {
    let line = |(name, value): &(String, String)| match shell {
        Shell::Sh => format!("export {name}={}\n", quoted(value, "'\\''")),
        Shell::Fish => format!("set -gx {name} {};\n", quoted(&value.replace('\\', "\\\\"), "\\'")),
        Shell::Json => String::new(),
    };
    match shell {
        Shell::Json => {
            let object = variables.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            crate::output::json(&serde_json::Value::Object(object))
        }
        _ => variables.iter().map(line).collect(),
    }
}

/// The value, in single quotes unless it is plain.
fn quoted(value: &str, quote: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<(String, String)> {
        variables("http://127.0.0.1:9801", "birds", "/home/ada/it's here".into(), None)
    }

    #[test]
    fn official_tools_are_told_address_project_and_no_credentials() {
        let text = written(&example(), Shell::Sh);
        for line in [
            "export BIGTABLE_EMULATOR_HOST=127.0.0.1:9801\n",
            "export STORAGE_EMULATOR_HOST=http://127.0.0.1:9801\n",
            "export CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS=http://127.0.0.1:9801/\n",
            "export CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGTABLEADMIN=http://127.0.0.1:9801/\n",
            "export CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW=http://127.0.0.1:9801/\n",
            "export CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING=http://127.0.0.1:9801/\n",
            "export CLOUDSDK_API_ENDPOINT_OVERRIDES_ORGPOLICY=http://127.0.0.1:9801/\n",
            "export CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=http://127.0.0.1:9801/storage/v1/\n",
            "export CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true\n",
            "export CLOUDSDK_CORE_PROJECT=birds\n",
            "export CLAVIGER_ENDPOINT=http://127.0.0.1:9801\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_token_takes_the_place_of_no_credentials() {
        let made = variables("http://h:1", "p", PathBuf::new(), Some(Path::new("/run/token")));
        let text = written(&made, Shell::Sh);
        assert!(text.contains("export CLAVIGER_TOKEN_FILE=/run/token\n"), "{text}");
        assert!(text.contains("export CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=/run/token\n"), "{text}");
        assert!(!text.contains("DISABLE_CREDENTIALS"), "{text}");
    }

    #[test]
    fn programs_get_what_is_not_gclouds() {
        let names: Vec<_> = for_programs("http://h:1", "p").into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"STORAGE_EMULATOR_HOST".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("CLOUDSDK")), "{names:?}");
    }

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let script = format!("{}printf %s \"$CLOUDSDK_CONFIG\"", written(&example(), Shell::Sh));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "/home/ada/it's here");
    }

    #[test]
    fn fish_and_json_have_their_own_spelling() {
        let fish = written(&example(), Shell::Fish);
        assert!(fish.contains("set -gx CLOUDSDK_CONFIG '/home/ada/it\\'s here';\n"), "{fish}");
        let json: serde_json::Value = serde_json::from_str(&written(&example(), Shell::Json)).unwrap();
        assert_eq!(json["CLOUDSDK_CORE_PROJECT"], "birds");
    }
}
