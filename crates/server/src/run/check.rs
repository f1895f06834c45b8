//! What a server is told and cannot be.
//!
//! Invariant: beyond loopback nobody comes in whom no one knows.

use claviger_core::{Error, Result};

use crate::config::ServeConfig;

/// Refuses what is not built or not safe.
pub(super) fn check(config: ServeConfig) -> Result<ServeConfig> {
    let asks = config.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    let knows = asks || config.tls.is_some() && config.callers.is_some();
    if !config.listen.ip().is_loopback() && !knows {
        return Err(Error::precondition(format!(
            "refusing to listen on {}: beyond loopback a server needs TLS and must know its callers: give --tls-cert and --tls-key, and --client-ca or --callers, or listen on 127.0.0.1",
            config.listen
        )));
    }
    if config.store_url.is_some() {
        return Err(Error::unimplemented("--store is not built yet: data goes to --data-dir"));
    }
    for service in &config.services {
        if !ServeConfig::SERVICES.contains(&service.as_str()) {
            return Err(Error::invalid(format!(
                "'{service}' is not a service; there are {}",
                ServeConfig::SERVICES.join(", ")
            )));
        }
    }
    let serves = |name: &str| config.services.iter().any(|service| service == name);
    match (&config.kms, serves("kms")) {
        (None, false) => {
            return Err(Error::precondition(
                "a server without the service kms needs one elsewhere: give --kms URL",
            ));
        }
        (Some(told), true) => {
            return Err(Error::precondition(format!(
                "the KMS is at {}, so this server cannot be one: leave kms out of --services",
                told.url
            )));
        }
        _ => {}
    }
    if config.tls.is_some() && serves("dataflow") {
        return Err(Error::unimplemented(
            "the service dataflow over TLS is not built yet: leave it out of --services, or listen on loopback without --tls-cert",
        ));
    }
    for (flag, named) in [("--admin", &config.admins), ("--data-server", &config.data_servers)] {
        if let (false, Some(name)) = (asks, named.first()) {
            return Err(Error::precondition(format!(
                "{flag} {name} needs --client-ca: without it nobody says who they are, and all are the administrator"
            )));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KmsElsewhere, TlsFiles};

    fn told(listen: &str, services: &[&str]) -> ServeConfig {
        ServeConfig {
            listen: listen.parse().unwrap(),
            services: services.iter().map(|name| (*name).to_owned()).collect(),
            ..ServeConfig::default()
        }
    }

    fn tls(asks: bool) -> Option<TlsFiles> {
        let client_ca_file = asks.then(|| "ca".into());
        Some(TlsFiles { cert_file: "c".into(), key_file: "k".into(), client_ca_file })
    }

    #[test]
    fn beyond_loopback_a_server_listens_only_with_tls_and_known_callers() {
        for (listen, tls, tokens, may) in [
            ("127.0.0.1:0", None, false, true),
            ("[::1]:0", None, false, true),
            ("127.0.0.1:0", tls(false), false, true),
            ("0.0.0.0:0", None, false, false),
            ("0.0.0.0:0", None, true, false),
            ("0.0.0.0:0", tls(false), false, false),
            ("0.0.0.0:0", tls(false), true, true),
            ("192.0.2.1:0", tls(true), false, true),
            ("[::]:0", tls(true), true, true),
        ] {
            let callers = tokens.then(|| "callers.toml".into());
            let config = ServeConfig { tls: tls.clone(), callers, ..told(listen, &["kms"]) };
            let checked = check(config).err().map(|error| error.message().to_owned());
            assert_eq!(checked.is_none(), may, "{listen} {tls:?} {tokens}: {checked:?}");
            assert!(checked.is_none_or(|text| text.contains("--client-ca")));
        }
    }

    #[test]
    fn keys_are_here_or_elsewhere_and_not_both() {
        let elsewhere = Some(KmsElsewhere { url: "https://kms".into(), ..KmsElsewhere::default() });
        for (services, kms, may) in [
            (&["kms", "bigtable"][..], None, true),
            (&["bigtable"], None, false),
            (&["bigtable", "dataflow"], elsewhere.clone(), true),
            (&["kms"], elsewhere, false),
        ] {
            let config = ServeConfig { kms, ..told("127.0.0.1:0", services) };
            assert_eq!(check(config).is_ok(), may, "{services:?}");
        }
    }

    #[test]
    fn nobody_is_named_where_nobody_is_asked_and_no_worker_is_left_without_its_server() {
        let admins = vec!["user:ada@example.com".to_owned()];
        let config = ServeConfig { admins: admins.clone(), tls: tls(false), ..told("127.0.0.1:0", &["kms"]) };
        assert!(check(config).unwrap_err().message().contains("--admin user:ada@example.com needs"));
        let config = ServeConfig { data_servers: admins, ..told("127.0.0.1:0", &["kms"]) };
        assert!(check(config).unwrap_err().message().contains("--data-server"));
        let config = ServeConfig { tls: tls(true), ..told("127.0.0.1:0", &["kms", "dataflow"]) };
        assert!(check(config).unwrap_err().message().contains("dataflow over TLS is not built"));
    }
}
