//! Who may ask: TLS, certificates, users.

use std::path::Path;
use std::time::{Duration, Instant};

use fencegate::coordinator::{Coordinator as _, CoordinatorError, Leadership as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::super::{bid, election};
use super::open;
use crate::upstream::etcd::{Etcd, ONE, Setup};

const PASSWORD: &str = "correct horse battery staple";

/// A certificate authority, whose certificate is in `DIR/NAME.pem`.
fn authority(dir: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join(name).with_extension("pem"), authority.pem()).unwrap();
    authority
}

/// A certificate for 127.0.0.1 in `DIR/NAME.pem`, its key in `DIR/NAME.key`.
fn certificate(dir: &Path, name: &str, by: &CertifiedIssuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, by).unwrap();
    std::fs::write(dir.join(name).with_extension("pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join(name).with_extension("key"), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn tls_knows_the_members_and_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, strangers) = (authority(dir.path(), "ca"), authority(dir.path(), "stranger"));
    certificate(dir.path(), "server", &ours);
    certificate(dir.path(), "client", &ours);
    certificate(dir.path(), "impostor", &strangers);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let etcd = Etcd::start(&Setup {
        scheme: "https",
        arguments: &[
            &format!("--cert-file={}", path("server.pem")),
            &format!("--key-file={}", path("server.key")),
            &format!("--trusted-ca-file={}", path("ca.pem")),
            "--client-cert-auth",
        ],
        ..ONE
    });
    let orders = election("orders");
    let hosts = etcd.hosts();
    let address = |options: &str| format!("etcds://{hosts}?{options}");
    let (ca, client) =
        (format!("&ca={}", path("ca.pem")), format!("&cert={}&key={}", path("client.pem"), path("client.key")));

    let mut leadership = open(&address(&format!("{ca}{client}"))).campaign(&orders, &bid("node-a")).await.unwrap();
    leadership.renew().await.unwrap();
    leadership.resign().await.unwrap();

    let impostor = format!("&cert={}&key={}", path("impostor.pem"), path("impostor.key"));
    let stranger = format!("&ca={}", path("stranger.pem"));
    for (options, says) in [
        (format!("timeout=10s{client}"), "UnknownIssuer"),
        (format!("timeout=10s{stranger}{client}"), "UnknownIssuer"),
        (format!("timeout=10s{ca}{client}&server_name=etcd.example"), "not valid for name"),
        // That it doesn't like ours, the server says by closing the connection: what is left of that differs.
        (format!("timeout=200ms{ca}"), ""),
        (format!("timeout=200ms{ca}{impostor}"), ""),
    ] {
        let started = Instant::now();
        let refused = open(&address(&options)).leader(&orders).await;
        let Err(CoordinatorError::Unavailable(text)) = &refused else { panic!("{options}: {refused:?}") };
        assert!(text.contains(says), "{options}: {text}");
        assert!(started.elapsed() < Duration::from_secs(10), "certificates don't get better by trying");
    }
    let plain = open(&format!("etcd://{hosts}?timeout=300ms")).leader(&orders).await;
    assert!(matches!(plain, Err(CoordinatorError::Unavailable(_))), "{plain:?}");
}

#[tokio::test]
async fn users_and_what_they_may_do() {
    let mut etcd = Etcd::start(&Setup { arguments: &["--bcrypt-cost=4"], ..ONE });
    for arguments in [
        &["user", "add", "root:root"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "elections"],
        &["role", "grant-permission", "elections", "readwrite", "--prefix", "app/"],
        &["user", "add", &format!("app:{PASSWORD}")],
        &["user", "grant-role", "app", "elections"],
        &["auth", "enable"],
    ] {
        etcd.told(arguments);
    }
    let (right, wrong) = (etcd.dir().join("right"), etcd.dir().join("wrong"));
    std::fs::write(&right, format!("{PASSWORD}\n")).unwrap();
    std::fs::write(&wrong, "incorrect horse").unwrap();
    let orders = election("orders");
    let address = |place: &str, password: &Path| {
        format!("{}/{place}?user=app&password_file={}", etcd.address(), password.display())
    };

    let coordinator = open(&address("app", &right));
    assert!(!format!("{coordinator:?}").contains(PASSWORD));
    let mut leadership = coordinator.campaign(&orders, &bid("node-a")).await.unwrap();
    leadership.renew().await.unwrap();
    for (options, says) in [
        (address("app", &wrong), "invalid user ID or password"),
        (address("", &right), "permission denied"),
        (format!("{}/app", etcd.address()), "user name is empty"),
    ] {
        let denied = open(&options).campaign(&orders, &bid("node-b")).await.err();
        let Some(CoordinatorError::Denied(text)) = &denied else { panic!("{options}: {denied:?}") };
        assert!(text.contains(says) && !text.contains("horse"), "{options}: {text}");
    }
    // The members have forgotten all logins.
    etcd.members[0].kill();
    etcd.members[0].start();
    leadership.renew().await.unwrap();
    leadership.resign().await.unwrap();
}
