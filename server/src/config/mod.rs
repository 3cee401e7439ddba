//! Reads the configuration: defaults, then the file, then the environment, then flags.

mod listen;
mod ranges;
mod reference;
mod refusal;
mod settings;

use std::env::VarError;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use nilometer_access::KeyKind;

pub(crate) use reference::{effective, markdown};
pub(crate) use settings::{Compression, EmailMasking, IpMasking, Masking, Settings};

use crate::cli::Sources;

/// Every default with its comment: the only place where defaults are written.
pub(crate) const DEFAULTS: &str = include_str!("defaults.toml");

/// Variables that begin with `NILOMETER_` and are no settings.
const NOT_SETTINGS: [&str; 5] = ["CONFIG", "URL", "WRITE_KEY", "READ_TOKEN", "ADMIN_TOKEN"];

/// Keys and tokens that the environment sets instead of the ones made on first start.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    pub(crate) write_key: Option<String>,
    pub(crate) read_token: Option<String>,
    pub(crate) admin_token: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// From `NILOMETER_WRITE_KEY`, `NILOMETER_READ_TOKEN`, `NILOMETER_ADMIN_TOKEN`.
    pub(crate) fn from_environment() -> Self {
        let read = |name: &str| {
            #[expect(clippy::disallowed_methods, reason = "server::config reads the environment")]
            let value = std::env::var(name).ok();
            value.filter(|value| !value.is_empty())
        };
        Self {
            write_key: read("NILOMETER_WRITE_KEY"),
            read_token: read("NILOMETER_READ_TOKEN"),
            admin_token: read("NILOMETER_ADMIN_TOKEN"),
        }
    }

    /// What is given, for what, and by which variable.
    pub(crate) fn given(&self) -> impl Iterator<Item = (KeyKind, &str, &'static str)> {
        let all = [
            (KeyKind::Write, &self.write_key, "NILOMETER_WRITE_KEY"),
            (KeyKind::Read, &self.read_token, "NILOMETER_READ_TOKEN"),
            (KeyKind::Admin, &self.admin_token, "NILOMETER_ADMIN_TOKEN"),
        ];
        all.into_iter().filter_map(|(kind, token, name)| Some((kind, token.as_deref()?, name)))
    }
}

/// Reads and checks the settings.
///
/// # Errors
///
/// What is unknown, of the wrong type or out of range, by its key and where it was written.
pub(crate) fn load(sources: &Sources) -> Result<Settings> {
    let mut figment = Figment::from(Toml::string(DEFAULTS));
    if let Some(path) = &sources.config {
        ensure!(path.is_file(), "configuration file {} does not exist", path.display());
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(Env::prefixed("NILOMETER_").ignore(&NOT_SETTINGS).split("__"));
    if let Some(dir) = &sources.data_dir {
        figment = figment.merge(Serialized::default("server.data_dir", dir));
    }
    if let Some(listen) = &sources.listen {
        figment = figment.merge(Serialized::default("server.listen", listen));
    }
    let settings: Settings =
        figment.extract().map_err(|error| anyhow::anyhow!(refusal::words(error)))?;
    ranges::check(&settings)?;
    Ok(settings)
}

/// The address to bind, which is loopback unless a proxy stands in front.
///
/// # Errors
///
/// A public address without `behind_proxy`.
pub(crate) fn listen_address(settings: &Settings) -> Result<SocketAddr> {
    let address = listen::address(&settings.server.listen).context("server.listen")?;
    if !address.ip().is_loopback() && !settings.server.behind_proxy {
        bail!(
            "server.listen: {address} is a public address and this server speaks no TLS; put a \
             TLS proxy in front and set server.behind_proxy = true, or listen on 127.0.0.1"
        );
    }
    Ok(address)
}

/// What is to be logged, where somebody says so.
///
/// # Errors
///
/// A variable that is no text.
pub(crate) fn log_filter() -> Result<Option<String>> {
    #[expect(clippy::disallowed_methods, reason = "server::config reads the environment")]
    match std::env::var("RUST_LOG") {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("RUST_LOG is no text"),
    }
}

/// Where commands keep small state between runs: `$XDG_STATE_HOME`, else `~/.local/state`.
pub(crate) fn state_dir() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "server::config reads the environment")]
    let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let base = read("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| read("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(base.join("nilometer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<Settings> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("nilometer.toml");
        std::fs::write(&path, text)?;
        load(&Sources { config: Some(path), ..Sources::default() })
    }

    #[test]
    fn the_defaults_are_complete_and_in_range() {
        assert_eq!(load(&Sources::default()).unwrap().log.partitions, 4);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = written("[gateway]\nbody_byte_max = 5\n").unwrap_err().to_string();
        assert!(error.contains("body_byte_max"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_names_the_key_and_the_range() {
        let error = written("[log]\npartitions = 0\n").unwrap_err().to_string();
        assert!(error.contains("log.partitions") && error.contains("1024"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_in_our_words_with_the_key_the_place_and_what_would_be_right() {
        for (text, told) in [
            (
                "[log]\npartitions = \"many\"",
                "log.partitions: expected a whole number from 1 to 1,024, found \"many\"",
            ),
            (
                "[log]\npartitions = 70000",
                "log.partitions: expected a whole number from 1 to 1,024, found 70000",
            ),
            (
                "[log]\npartitions = 1.5",
                "log.partitions: expected a whole number from 1 to 1,024, found 1.5",
            ),
            ("[server]\nbehind_proxy = 1", "server.behind_proxy: expected true or false, found 1"),
            (
                "[server]\nallowed_origins = \"https://a.example\"",
                "server.allowed_origins: expected a list, such as [\"a\", \"b\"], found",
            ),
            ("[server]\nlisten = 8080", "server.listen: expected text, found 8080"),
            ("log = 3", "log: expected a table of keys, found 3"),
            (
                "[log]\ncompression = \"zip\"",
                "log.compression: expected one of lz4, zstd, none, found \"zip\"",
            ),
            ("[log]\npartition = 1", "`partition` is no setting of log; did you mean partitions?"),
            ("[lgo]\na = 1", "`lgo` is no setting of the configuration; did you mean log?"),
            ("[[metric]]\nname = \"a\"", "[[metric]] number 1: aggregate is missing"),
            (
                "[[metric]]\nname = \"a\"\naggregate = \"sum\"\nscale = \"x\"",
                "[[metric]] number 1, scale: expected a whole number, found \"x\"",
            ),
            ("[log\n", "line 1, column 5"),
        ] {
            let error = format!("{:#}", written(text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
            assert!(error.contains("nilometer.toml"), "{text}: {error}");
            for foreign in ["u16", "default.", "struct", "invalid type", "expected a sequence"] {
                assert!(!error.contains(foreign), "{text}: {error}");
            }
        }
    }

    #[test]
    fn a_public_address_needs_a_proxy() {
        let public = written("[server]\nlisten = \"0.0.0.0:8080\"\n").unwrap();
        assert!(listen_address(&public).unwrap_err().to_string().contains("behind_proxy"));
        let proxied =
            written("[server]\nlisten = \"0.0.0.0:8080\"\nbehind_proxy = true\n").unwrap();
        assert!(listen_address(&proxied).is_ok());
    }
}
