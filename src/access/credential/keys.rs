//! Ed25519 key pairs, and their files: PKCS#8 and SubjectPublicKeyInfo in PEM (RFC 8410), as OpenSSL has them, too.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

/// The length of a public key and of a private key's seed, in bytes.
const LEN: usize = 32;
/// What stands before the seed in PKCS#8, and before the key in SubjectPublicKeyInfo (RFC 8410, sections 4 and 7).
const PRIVATE: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// The half of a key pair that checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; LEN],
    id: String,
}

/// The half that signs, with the other. Kept out of `Debug`.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl PublicKey {
    fn new(bytes: [u8; LEN]) -> PublicKey {
        let digest = digest::digest(&digest::SHA256, &bytes);
        PublicKey { bytes, id: URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]) }
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(file: &Path) -> Result<PublicKey, String> {
        let wrong = |why: String| format!("the public key in {}: {why}", file.display());
        let der = SubjectPublicKeyInfoDer::from_pem_file(file).map_err(|error| wrong(error.to_string()))?;
        let bytes = der.strip_prefix(&PUBLIC).and_then(|bytes| bytes.try_into().ok());
        bytes.map(PublicKey::new).ok_or_else(|| wrong("it is not one of Ed25519".to_owned()))
    }

    /// The key.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.bytes
    }

    /// What it is called in credentials: made from the key itself, so that it needs no name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl SigningKey {
    /// Makes a key pair in two new files: the private one can be read by its owner only.
    ///
    /// # Errors
    /// A sentence: no randomness; a file that is there already or can't be written.
    pub fn create(private: &Path, public: &Path) -> Result<SigningKey, String> {
        let mut seed = [0; LEN];
        getrandom::fill(&mut seed).map_err(|error| format!("no randomness: {error}"))?;
        let key = SigningKey::from_seed(&seed)?;
        write(private, 0o600, "PRIVATE KEY", &[&PRIVATE[..], &seed].concat())?;
        write(public, 0o644, "PUBLIC KEY", &[&PUBLIC[..], &key.public.bytes].concat())?;
        Ok(key)
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(file: &Path) -> Result<SigningKey, String> {
        let wrong = |why: String| format!("the private key in {}: {why}", file.display());
        let der = PrivatePkcs8KeyDer::from_pem_file(file).map_err(|error| wrong(error.to_string()))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        pair.map_err(|_| wrong("it is not one of Ed25519".to_owned())).and_then(SigningKey::new)
    }

    /// Of a seed that is known.
    pub(crate) fn from_seed(seed: &[u8; LEN]) -> Result<SigningKey, String> {
        SigningKey::new(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| error.to_string())?)
    }

    fn new(pair: Ed25519KeyPair) -> Result<SigningKey, String> {
        let bytes = pair.public_key().as_ref().try_into().map_err(|_| "a key of another length".to_owned())?;
        Ok(SigningKey { pair, public: PublicKey::new(bytes) })
    }

    /// The other half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, text: &[u8]) -> [u8; 64] {
        self.pair.sign(text).as_ref().try_into().expect("a signature of Ed25519 has 64 bytes")
    }
}

fn write(file: &Path, mode: u32, label: &str, der: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut to = OpenOptions::new().write(true).create_new(true).mode(mode).open(file).map_err(failed)?;
    // Both fit into one line of 64 characters.
    write!(to, "-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)).map_err(failed)
}
