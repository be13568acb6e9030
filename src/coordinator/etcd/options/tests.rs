//! Addresses, good and bad.

use super::*;

fn parse(address: &str) -> Options {
    Options::parse(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

#[test]
fn an_address_says_where_and_who() {
    let plain = parse("etcd://localhost");
    let expected = Options {
        members: vec!["localhost:2379".into()],
        tls: None,
        prefix: String::new(),
        user: None,
        timeout: TIMEOUT_DEFAULT,
    };
    assert_eq!(plain, expected);
    assert_eq!(parse("etcd://localhost:2379/"), expected);

    let full = parse(
        "etcds://10.0.0.1:1,[::1],etcd-2.example:65535/prod%20eu/a?ca=ca.pem&cert=me.pem&key=/keys/me%26you.pem&server_name=etcd&user=app&password_file=pw&timeout=500ms",
    );
    assert_eq!(full.members, ["10.0.0.1:1", "[::1]:2379", "etcd-2.example:65535"]);
    assert_eq!(full.prefix, "prod eu/a/");
    assert_eq!(full.timeout, Duration::from_millis(500));
    assert_eq!(full.user, Some(User { name: "app".into(), password: Password::File("pw".into()) }));
    let tls = full.tls.clone().unwrap();
    assert_eq!(tls.ca, Some("ca.pem".into()));
    assert_eq!(tls.client, Some(("me.pem".into(), "/keys/me&you.pem".into())));
    assert_eq!(tls.server_name.as_deref(), Some("etcd"));
    assert_eq!(full.to_string(), "etcds://10.0.0.1:1,[::1]:2379,etcd-2.example:65535/prod eu/a/");

    let user = |address: &str| parse(address).user.unwrap().password;
    assert_eq!(user("etcd://h?user=a"), Password::Variable(PASSWORD_VARIABLE.into()));
    assert_eq!(user("etcd://h?user=a&password_env=PW"), Password::Variable("PW".into()));
    assert_eq!(parse("etcd://h//registry").prefix, "/registry/", "a prefix may begin with a slash, as some keys do");
}

#[test]
fn what_is_wrong_is_said_and_how_to_write_it() {
    let wrong = |address: &str| Options::parse(address).expect_err(address);
    for address in ["", "localhost:2379", "http://localhost", "etcd:/h", "ETCD://h"] {
        assert_eq!(wrong(address), OptionsError::Scheme, "{address}");
    }
    for member in
        ["", "a,", ":2379", "a:", "a:b", "a:65536", "a:+1", "a b", "[::1", "[::g]:1", "[::1]x", "::1", "a]:1", "ä"]
    {
        assert!(matches!(wrong(&format!("etcd://{member}")), OptionsError::Member(_)), "{member}");
    }
    assert_eq!(wrong("etcd://h?cert=a&ca=b"), OptionsError::HalfIdentity);
    assert_eq!(wrong("etcd://h?ca=b"), OptionsError::NeedsTls("ca"));
    assert_eq!(wrong("etcds://h?key=a"), OptionsError::HalfIdentity);
    assert_eq!(wrong("etcd://h?user=a&user=b"), OptionsError::Value("user".into()));
    assert_eq!(wrong("etcd://h?user"), OptionsError::Value("user".into()));
    assert_eq!(wrong("etcd://h?password_file=a"), OptionsError::Password);
    assert_eq!(wrong("etcd://h?user=a&password_file=a&password_env=b"), OptionsError::Password);
    assert_eq!(wrong("etcd://h/%ff"), OptionsError::Encoding("the prefix".into()));
    assert_eq!(wrong(&format!("etcd://h/{}", "x".repeat(1025))), OptionsError::Prefix);
    for timeout in ["0s", "49ms", "61s", "x", "-1s"] {
        assert_eq!(wrong(&format!("etcd://h?timeout={timeout}")), OptionsError::Timeout(timeout.into()));
    }
}

#[test]
fn no_password_is_repeated() {
    for address in ["etcd://app:secret@h", "etcd://h?user=app&password=secret"] {
        let error = Options::parse(address).expect_err(address);
        let said = format!("{error} {error:?}");
        assert!(!said.contains("secret"), "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let options = parse(&format!("etcd://h?user=app&password_file={}", file.display()));
    assert_eq!(options.user.as_ref().unwrap().read().unwrap(), "secret", "the line's end is no part of it");
    assert!(!format!("{options} {options:?}").contains("secret"));
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file.pem");
    let path = file.display();
    let said = |address: String| parse(&address).read().expect_err(&address).to_string();
    assert!(said(format!("etcds://h?ca={path}")).contains("can't read certificates in "));
    std::fs::write(&file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(said(format!("etcds://h?ca={path}")).starts_with("there is no certificate in PEM form in "));
    assert!(said(format!("etcds://h?cert={path}&key={path}")).starts_with("there is no certificate in PEM form in "));
    assert!(said(format!("etcd://h?user=app&password_file={path}/x")).starts_with("can't read a password in "));
    let variable = "FENCEGATE_TEST_NO_SUCH_VARIABLE";
    assert!(said(format!("etcd://h?user=app&password_env={variable}")).contains(variable));
}
