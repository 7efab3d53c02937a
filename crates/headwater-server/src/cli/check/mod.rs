//! `headwater check`: verifies that a server with these settings would work, before it is started.
//! Look here for what is checked; `risks` has most of the warnings.

mod findings;
mod redis;

use self::findings::Findings;
use super::output::print;
use crate::access::keys::{read_public_key, read_secret};
use crate::access::{count_jwks, try_authorize_url};
use crate::exit::{Failure, error_chain};
use crate::risks::{self, Finding};
use crate::settings::{AccessSettings, CertificateFiles, SecretPlaces, Settings, TlsSettings};
use crate::tls::{self, Certificates};

/// Certificates are usually renewed weeks before they expire.
const CERTIFICATE_DAYS_MIN: i64 = 7;

/// Checks everything that the settings name, and prints the findings.
pub(super) async fn run(settings: Settings, places: SecretPlaces) -> Result<(), Failure> {
    let mut findings = Findings::default();
    print("settings\n")?;
    findings.good("settings are valid and consistent")?;
    if let Some(source) = &settings.tls {
        print("tls\n")?;
        check_tls(source, &mut findings).await?;
    }
    print("access\n")?;
    check_access(&settings, &mut findings).await?;
    print("risks\n")?;
    for finding in risks::find(&settings, &places) {
        match finding {
            Finding::Good(text) => findings.good(&text)?,
            Finding::Risk(text) => findings.warn(&text)?,
        }
    }
    if let Some(url) = &settings.redis.url {
        print(&format!("redis {url}\n"))?;
        redis::check(url, &settings.access, &mut findings).await?;
    }
    let Findings { good, failures, warnings } = findings;
    print(&format!("{good} ok, {failures} failed, {warnings} warnings\n"))?;
    if failures > 0 {
        let error = anyhow::anyhow!("a server with these settings would not work as it should");
        return Err(Failure::Failed(error));
    }
    Ok(())
}

async fn check_tls(source: &TlsSettings, findings: &mut Findings) -> Result<(), Failure> {
    match source {
        TlsSettings::Files(files) => check_certificate(files, findings),
        TlsSettings::Acme(settings) => {
            findings.add(tls::check_acme_server(settings).await)?;
            findings.add(tls::check_acme_certificate(settings))
        }
    }
}

fn check_certificate(files: &CertificateFiles, findings: &mut Findings) -> Result<(), Failure> {
    let certificates = match Certificates::load(files.clone()) {
        Ok(certificates) => certificates,
        Err(error) => return findings.fail(&error_chain(&error)),
    };
    let shown = files.certificate.display();
    findings.good(&format!("{shown} and its key fit"))?;
    let seconds = certificates.seconds_left();
    let days = seconds / (24 * 60 * 60);
    if seconds <= 0 {
        return findings.fail(&format!("{shown} has expired: clients reject it"));
    }
    if days < CERTIFICATE_DAYS_MIN {
        return findings.warn(&format!("{shown} expires in {days} days: renew it"));
    }
    findings.good(&format!("{shown} is good for {days} days"))
}

async fn check_access(settings: &Settings, findings: &mut Findings) -> Result<(), Failure> {
    let access = &settings.access;
    if !access.has_rules() {
        if settings.is_local() {
            findings.good("open: there are no rules, and only this machine can reach it")?;
        }
        return Ok(());
    }
    check_keys(access, findings).await?;
    if let Some(url) = &access.authorize_url {
        let answered = try_authorize_url(url, access.authorize_timeout).await;
        match answered {
            Ok(status) if status.is_success() => findings.warn(&format!(
                "{url} allows a client without a cookie to subscribe to `headwater-check` \
                 ({status}): does it check who asks?"
            ))?,
            Ok(status) if [401, 403].contains(&status.as_u16()) => {
                findings.good(&format!(
                    "{url} answers, and denies clients without credentials ({status})"
                ))?;
            }
            Ok(status) => findings.fail(&format!(
                "{url} answers {status}, which denies: it should answer 200, 204, 401 or 403"
            ))?,
            Err(error) => findings
                .fail(&format!("the application cannot be asked: {}", error_chain(&error)))?,
        }
    }
    Ok(())
}

async fn check_keys(access: &AccessSettings, findings: &mut Findings) -> Result<(), Failure> {
    if let Some(path) = &access.jwt_secret_file {
        match read_secret(path) {
            Ok(secret) if secret.expose().is_empty() => {
                findings.fail(&format!("{}: the secret is empty", path.display()))?;
            }
            Ok(_) => {}
            Err(error) => findings.fail(&error_chain(&error))?,
        }
    }
    if let Some(path) = &access.jwt_public_key {
        let read = read_public_key(path);
        findings.add(read.map(|_| format!("{} is a public key", path.display())))?;
    }
    if let Some(place) = &access.jwks {
        let counted = count_jwks(place).await;
        findings
            .add(counted.map(|count| format!("the set of keys has {count} that can be used")))?;
    }
    Ok(())
}
