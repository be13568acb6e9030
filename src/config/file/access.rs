//! `[tls]`, `[admin_tls]` and `[[principal]]` of the configuration file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::access::credential::{AUDIENCE_DEFAULT, PublicKey, Signer, SigningKey, TrustedKey, Verifier};
use crate::access::{Access, Grant, Pattern, Principal, Proof, Right};
use crate::tls::{names, server};

use super::{ConfigError, FileToml, ResourceToml, Source};

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialsToml {
    audience: Option<String>,
    pub(super) signing_key: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialKeyToml {
    file: Spanned<PathBuf>,
    resource: Option<Spanned<String>>,
    fence: Option<Spanned<String>>,
    rights: Option<Vec<Spanned<String>>>,
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

/// What the file says of who may do what.
pub(super) struct Understood {
    /// Nothing where it says nothing.
    pub(super) access: Option<Access>,
    pub(super) signer: Option<Arc<Signer>>,
}

/// The principals and the keys.
pub(super) fn access(source: &Source<'_>, folder: &Path, file: &FileToml) -> Result<Understood, ConfigError> {
    let (verifier, signer) = credentials(source, folder, file)?;
    let required =
        |item: &ResourceToml| item.require_credential.as_ref().filter(|required| *required.get_ref()).cloned();
    let mut credential_only = HashSet::new();
    for item in &file.resource {
        let Some(required) = required(item.get_ref()) else { continue };
        if !verifier.has_keys() {
            let why = "require_credential needs a key to check credentials with: [[credential_key]], or signing_key in [credentials]";
            return Err(source.at(required.span(), super::about(item.get_ref(), why)));
        }
        credential_only.insert(item.get_ref().name.get_ref().clone());
    }
    if file.principal.is_empty() && !verifier.has_keys() {
        return Ok(Understood { access: None, signer: None });
    }
    let resources: Vec<&str> = file.resource.iter().map(|item| item.get_ref().name.get_ref().as_str()).collect();
    let made = file.principal.iter().map(|toml| principal(source, toml, &resources)).collect::<Result<Vec<_>, _>>()?;
    let access =
        Access::new(made).map_err(|(index, why)| source.at(file.principal[index].get_ref().name.span(), why))?;
    let access = access.with_credential_only(credential_only).with_credentials(verifier);
    Ok(Understood { access: Some(access), signer: signer.map(Arc::new) })
}

fn credentials(source: &Source<'_>, folder: &Path, file: &FileToml) -> Result<(Verifier, Option<Signer>), ConfigError> {
    let audience = file.credentials.as_ref().and_then(|credentials| credentials.audience.as_deref());
    let audience = audience.unwrap_or(AUDIENCE_DEFAULT);
    let (mut keys, mut signer) = (Vec::new(), None);
    if let Some(given) = file.credentials.as_ref().and_then(|credentials| credentials.signing_key.as_ref()) {
        let key = SigningKey::open(&folder.join(given.get_ref())).map_err(|why| source.at(given.span(), why))?;
        // What the gate signs it believes.
        keys.push(TrustedKey::of_all(key.public().clone()));
        signer = Some(Signer::new(key, "fencegate", audience));
    }
    for toml in &file.credential_key {
        let CredentialKeyToml { file: key, resource, fence, rights } = toml.get_ref();
        let pattern = |text: &Option<Spanned<String>>| match text {
            Some(text) => source.parse(text, Pattern::parse),
            None => Ok(Pattern::parse("*").expect("a star is a pattern")),
        };
        let key = PublicKey::open(&folder.join(key.get_ref())).map_err(|why| source.at(key.span(), why))?;
        let mut trusted =
            TrustedKey { resource: pattern(resource)?, fence: pattern(fence)?, ..TrustedKey::of_all(key) };
        if let Some(rights) = rights {
            let right = |text| source.parse(text, str::parse::<Right>);
            trusted.rights = rights.iter().map(right).collect::<Result<Vec<_>, _>>()?.into_iter().collect();
        }
        if keys.iter().any(|known| known.key == trusted.key) {
            return Err(source.at(toml.span(), "this key is there already"));
        }
        keys.push(trusted);
    }
    Ok((Verifier::new(keys, audience), signer))
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
