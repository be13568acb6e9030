//! `[tls]`, `[admin_tls]` and `[[principal]]` of the configuration file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::access::{Access, Grant, Pattern, Principal, Proof, Right};
use crate::tls::{names, server};

use super::{ConfigError, FileToml, Source};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsToml {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrincipalToml {
    name: Spanned<String>,
    secret_hash: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    anonymous: Option<Spanned<bool>>,
    #[serde(default)]
    grants: Vec<GrantToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantToml {
    resource: Option<Spanned<String>>,
    fence: Option<Spanned<String>>,
    rights: Vec<Spanned<String>>,
}

/// Longest name of a principal, in characters.
const NAME_CHARS_MAX: usize = 64;

pub(super) fn tls(
    source: &Source<'_>,
    folder: &Path,
    toml: Option<&Spanned<TlsToml>>,
) -> Result<Option<server::Options>, ConfigError> {
    let Some(toml) = toml else { return Ok(None) };
    let TlsToml { cert, key, client_ca, client_auth } = toml.get_ref();
    let required = match client_auth.as_ref().map(|auth| (auth.get_ref().as_str(), auth.span())) {
        None | Some(("required", _)) => true,
        Some(("optional", _)) => false,
        Some((other, span)) => {
            return Err(source.at(span, format!("client_auth is \"required\" or \"optional\", not {other:?}")));
        }
    };
    if client_ca.is_none() && client_auth.is_some() {
        return Err(source.at(toml.span(), "client_auth needs client_ca: whose certificates clients may show"));
    }
    let clients = client_ca.as_ref().map(|ca| server::Clients { ca: folder.join(ca), required });
    Ok(Some(server::Options { cert: folder.join(cert), key: folder.join(key), clients }))
}

/// The principals; nothing where the file has none.
pub(super) fn access(source: &Source<'_>, file: &FileToml) -> Result<Option<Access>, ConfigError> {
    if file.principal.is_empty() {
        return Ok(None);
    }
    let resources: Vec<&str> = file.resource.iter().map(|item| item.get_ref().name.get_ref().as_str()).collect();
    let made = file.principal.iter().map(|toml| principal(source, toml, &resources)).collect::<Result<Vec<_>, _>>()?;
    let access =
        Access::new(made).map_err(|(index, why)| source.at(file.principal[index].get_ref().name.span(), why))?;
    Ok(Some(access.with_credential_only(HashSet::new())))
}

fn principal(source: &Source<'_>, toml: &Spanned<PrincipalToml>, resources: &[&str]) -> Result<Principal, ConfigError> {
    let PrincipalToml { name, secret_hash, certificate, anonymous, grants } = toml.get_ref();
    let about = |why: &str| format!("principal {:?}: {why}", name.get_ref());
    let is_name_char = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    let text = name.get_ref();
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(is_name_char) {
        let why = format!("a principal's name has 1 to {NAME_CHARS_MAX} visible characters of ASCII, no quotes");
        return Err(source.at(name.span(), about(&why)));
    }
    let is_anonymous = anonymous.as_ref().is_some_and(|anonymous| *anonymous.get_ref());
    let proof = match (secret_hash, certificate, is_anonymous) {
        (Some(hash), None, false) => {
            // The text is not told: it may be the secret, put here by mistake.
            let wrong = |error: crate::access::secret::SecretHashError| about(&error.to_string());
            Proof::Secret(source.parse(hash, |text| text.parse().map_err(wrong))?)
        }
        (None, Some(name), false) => {
            Proof::Certificate(source.parse(name, |text| names::parse(text).map_err(|why| about(&why)))?)
        }
        (None, None, true) => Proof::Anonymous,
        _ => {
            let why =
                "it needs one of secret_hash (`fencegate principal new` makes one), certificate, anonymous = true";
            return Err(source.at(toml.span(), about(why)));
        }
    };
    let grants = grants.iter().map(|toml| grant(source, toml, resources, &about)).collect::<Result<Vec<_>, _>>()?;
    Ok(Principal { name: text.clone(), proof, grants })
}

fn grant(
    source: &Source<'_>,
    toml: &GrantToml,
    resources: &[&str],
    about: &dyn Fn(&str) -> String,
) -> Result<Grant, ConfigError> {
    let pattern = |text: &Option<Spanned<String>>| match text {
        Some(text) => source.parse(text, |text| Pattern::parse(text).map_err(|why| about(&why))),
        None => Ok(Pattern::parse("*").expect("a star is a pattern")),
    };
    let resource = pattern(&toml.resource)?;
    if let Some(text) = &toml.resource
        && !resource.is_all()
        && !resources.iter().any(|name| resource.fits(name))
    {
        // A grant that reaches nothing is a mistake that nobody would see.
        let why = format!("no resource is called {:?}; there is {}", resource.as_str(), resources.join(", "));
        return Err(source.at(text.span(), about(&why)));
    }
    let right = |text: &Spanned<String>| source.parse(text, |text| text.parse::<Right>().map_err(|why| about(&why)));
    let rights = toml.rights.iter().map(right).collect::<Result<Vec<_>, _>>()?.into_iter().collect();
    Ok(Grant { resource, fence: pattern(&toml.fence)?, rights })
}
