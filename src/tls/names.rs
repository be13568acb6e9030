//! The names in a client's certificate, which was checked in the handshake.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The kinds of names that there are, as they stand before a name.
pub const KINDS: [&str; 4] = ["dns", "uri", "email", "cn"];

/// All names of a certificate, each with its kind in front: `dns:node-a.example`, `uri:spiffe://prod/worker`, `email:…` of its
/// alternative names, `cn:…` of its subject. The kind is part of the name, since authorities don't check all kinds alike. A
/// certificate that can't be read has none.
pub fn of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|names| &names.value.general_names);
    let mut found: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("dns:{}", name.to_ascii_lowercase())),
            GeneralName::URI(name) => Some(format!("uri:{name}")),
            GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
            _ => None,
        })
        .collect();
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    found.extend(common.map(|name| format!("cn:{name}")));
    found
}

/// Reads a name as the configuration has it.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((_, "")) => Err(format!("{text:?} names nobody")),
        Some(("dns", name)) => Ok(format!("dns:{}", name.to_ascii_lowercase())),
        Some((kind, _)) if KINDS.contains(&kind) => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} has no kind; write dns:…, uri:…, email:… or cn:…, as the name stands in the certificate"
        )),
    }
}
