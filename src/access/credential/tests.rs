use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);

struct World {
    ours: SigningKey,
    strangers: SigningKey,
    verifier: Verifier,
    dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let at = |end: &str| dir.path().join(name).with_extension(end);
        SigningKey::create(&at("key"), &at("pub")).unwrap()
    };
    let (ours, strangers) = (key("ours"), key("strangers"));
    let mut trusted = TrustedKey::of_all(ours.public().clone());
    trusted.fence = Pattern::parse("orders*").unwrap();
    let verifier = Verifier::new(vec![trusted], "gate");
    World { ours, strangers, verifier, dir }
}

fn head(kid: &str) -> Value {
    json!({"alg": "EdDSA", "typ": jws::TYPE, "kid": kid})
}

fn payload() -> Value {
    json!({"aud": "gate", "fence": "orders", "token": "7", "sub": "node-a", "exp": NOW.as_secs() + 60})
}

fn signed(head: &Value, payload: &Value, key: &SigningKey) -> String {
    let text = [head, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes())))
}

impl World {
    fn judge(&self, text: &str) -> Result<Credential, CredentialError> {
        self.verifier.verify(text, NOW).map(|leader| leader.credential.clone())
    }

    fn with(&self, change: impl FnOnce(&mut Value)) -> Result<Credential, CredentialError> {
        let mut payload = payload();
        change(&mut payload);
        self.judge(&signed(&head(self.ours.public().id()), &payload, &self.ours))
    }

    fn headed(&self, change: impl FnOnce(&mut Value)) -> Result<Credential, CredentialError> {
        let mut head = head(self.ours.public().id());
        change(&mut head);
        self.judge(&signed(&head, &payload(), &self.ours))
    }
}

fn is_form(outcome: &Result<Credential, CredentialError>) -> bool {
    matches!(outcome, Err(CredentialError::Form(_)))
}

#[test]
fn what_is_signed_is_believed() {
    let world = world();
    let good = world.with(|_| {}).unwrap();
    assert_eq!(
        (good.fence.as_str(), good.token.to_string(), good.sub.unwrap().as_str()),
        ("orders", "7".into(), "node-a")
    );
    let (fence, token, holder) =
        ("orders".parse().unwrap(), "9223372036854775807".parse().unwrap(), "b".parse().unwrap());
    let signer = Signer::new(SigningKey::open(&world.dir.path().join("ours.key")).unwrap(), "us", "gate");
    let text = signer.sign(&fence, token, Some(&holder), Duration::from_millis(2500), NOW);
    let leader = world.verifier.verify(&text, NOW).unwrap();
    assert_eq!((leader.credential.token, leader.credential.exp), (token, NOW.as_secs() + 2));
    assert_eq!(world.verifier.verify(&text, NOW + Duration::from_secs(2)).unwrap_err(), CredentialError::Expired);
    assert!(jws::is_one(&text) && !jws::is_one("eyJhbGciOiJub25lIn0.e30.") && !jws::is_one("fgt.7"));
}

#[test]
fn other_algorithms_are_refused() {
    let world = world();
    // Each is signed as well as can be: it is the algorithm that is refused.
    for alg in ["none", "None", "NONE", "", "HS256", "RS256", "ES256", "Ed25519", "eddsa"] {
        assert!(is_form(&world.headed(|head| head["alg"] = alg.into())), "{alg}");
    }
    // The attacks that those are about: no signature, and the public key as the secret of an HMAC.
    let parts = |alg: &str| {
        let mut head = head(world.ours.public().id());
        head["alg"] = alg.into();
        [head, payload()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
    };
    assert!(is_form(&world.judge(&format!("{}.", parts("none")))));
    let text = parts("HS256");
    let pem = std::fs::read(world.dir.path().join("ours.pub")).unwrap();
    for secret in [&world.ours.public().as_bytes()[..], &pem] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes()));
        assert!(is_form(&world.judge(&format!("{text}.{tag}"))));
    }
}

#[test]
fn heads_say_nothing_else() {
    let world = world();
    assert!(world.headed(|_| {}).is_ok());
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("jku", json!("https://example.org/keys")),
        ("jwk", json!({"kty": "OKP"})),
        ("x5u", json!("x")),
        ("cty", json!("JWT")),
    ] {
        assert!(is_form(&world.headed(|head| head[name] = value)), "{name}");
    }
    assert!(is_form(&world.headed(|head| head["typ"] = "JWT".into())));
    for name in ["alg", "typ", "kid"] {
        assert!(is_form(&world.headed(|head| drop(head.as_object_mut().unwrap().remove(name)))), "without {name}");
    }
    assert!(is_form(&world.headed(|head| *head = json!(["EdDSA", jws::TYPE, "x"]))));
    assert_eq!(world.headed(|head| head["kid"] = "x".into()), Err(CredentialError::UnknownKey));
    assert_eq!(
        world.headed(|head| head["kid"] = world.strangers.public().id().into()),
        Err(CredentialError::UnknownKey)
    );
}

#[test]
fn forged_and_changed_ones_are_refused() {
    let world = world();
    let head = head(world.ours.public().id());
    assert_eq!(world.judge(&signed(&head, &payload(), &world.strangers)), Err(CredentialError::Signature));
    let good = signed(&head, &payload(), &world.ours);
    let mut higher = payload();
    higher["token"] = "8".into();
    let parts: Vec<&str> = good.split('.').collect();
    let changed = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(higher.to_string()), parts[2]);
    assert_eq!(world.judge(&changed), Err(CredentialError::Signature));
    // No byte of it can be another.
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(world.judge(std::str::from_utf8(&bytes).unwrap()).is_err(), "byte {at}");
    }
    for end in 0..good.len() {
        assert!(world.judge(&good[..end]).is_err(), "cut off at {end}");
    }
    for odd in
        [format!("{good}="), format!("{good}."), format!("{good}.x"), format!(" {good}"), "..".into(), String::new()]
    {
        assert!(world.judge(&odd).is_err(), "{odd:?}");
    }
    assert!(is_form(&world.judge(&"e".repeat(5000))));
}

#[test]
fn what_it_is_for_and_when() {
    let world = world();
    let now = NOW.as_secs();
    assert_eq!(world.with(|p| p["aud"] = "other".into()), Err(CredentialError::Audience));
    assert_eq!(world.with(|p| p["fence"] = "jobs".into()), Err(CredentialError::Fence));
    assert_eq!(world.with(|p| p["exp"] = now.into()), Err(CredentialError::Expired));
    assert_eq!(world.with(|p| p["exp"] = 0.into()), Err(CredentialError::Expired));
    assert_eq!(world.with(|p| p["nbf"] = (now + 60).into()), Err(CredentialError::Early));
    assert_eq!(world.with(|p| p["iat"] = (now + 60).into()), Err(CredentialError::Early));
    assert!(world.with(|p| p["nbf"] = (now + 20).into()).is_ok(), "clocks differ");
    assert_eq!(world.with(|p| p["exp"] = (now + 4000).into()), Err(CredentialError::Long));
    assert_eq!(world.with(|p| p["exp"] = u64::MAX.into()), Err(CredentialError::Long));
    for (name, value) in [
        ("aud", json!(["gate"])),
        ("token", json!(7)),
        ("token", json!("07")),
        ("token", json!("0")),
        ("fence", json!("two words")),
        ("exp", json!("1800000060")),
        ("exp", json!(-1)),
        ("sub", json!("")),
    ] {
        assert!(is_form(&world.with(|p| p[name] = value.clone())), "{name} = {value}");
    }
    for name in ["aud", "fence", "token", "exp"] {
        assert!(is_form(&world.with(|p| drop(p.as_object_mut().unwrap().remove(name)))), "without {name}");
    }
}

#[test]
fn what_was_good_is_remembered_as_long_as_it_is_and_no_longer() {
    let world = world();
    let head = head(world.ours.public().id());
    let good = signed(&head, &payload(), &world.ours);
    let first = world.verifier.verify(&good, NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &world.verifier.verify(&good, NOW).unwrap()), "it is not checked again");
    let at = |seconds: u64| world.verifier.verify(&good, NOW + Duration::from_secs(seconds)).map(drop);
    assert_eq!((at(59), at(60)), (Ok(()), Err(CredentialError::Expired)));
    assert_eq!(world.verifier.verify(&good, NOW - 2 * LIFETIME_MAX).map(drop), Err(CredentialError::Long));
    // What is bad isn't remembered, and takes no place.
    for _ in 0..2 {
        assert!(world.judge(&format!("{}AAAAAAAA", &good[..good.len() - 8])).is_err());
    }
    for number in 0..2 * GOOD_MAX {
        assert!(world.with(|p| p["token"] = (number + 1).to_string().into()).is_ok());
        assert!(world.verifier.good.lock().unwrap().len() <= GOOD_MAX);
    }
}

#[test]
fn key_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = world();
    let at = |name: &str| world.dir.path().join(name);
    assert_eq!(std::fs::metadata(at("ours.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(PublicKey::open(&at("ours.pub")).unwrap(), *world.ours.public());
    assert!(SigningKey::create(&at("ours.key"), &at("new.pub")).unwrap_err().contains("exists"));
    assert!(PublicKey::open(&at("ours.key")).is_err() && SigningKey::open(&at("ours.pub")).is_err());
    assert!(!format!("{:?}", world.ours).contains("seed"));
    // Of another kind.
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(at("p256.key"), other.serialize_pem()).unwrap();
    std::fs::write(at("p256.pub"), other.public_key_pem()).unwrap();
    assert!(SigningKey::open(&at("p256.key")).unwrap_err().contains("Ed25519"));
    assert!(PublicKey::open(&at("p256.pub")).unwrap_err().contains("Ed25519"));
}

/// RFC 8032, section 7.1, test 1, in the files of RFC 8410.
#[test]
fn a_known_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known.key");
    let der = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
    std::fs::write(&file, format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")).unwrap();
    let key = SigningKey::open(&file).unwrap();
    let public: String = key.public().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(public, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert_eq!(&key.sign(b"")[..4], [0xe5, 0x56, 0x43, 0x00]);
}
