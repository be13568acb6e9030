//! Candidates of one election. No token is told twice, none is lost, and they rise.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Played;
use super::site::{Plays, Site, Successor};
use crate::gate::LONG;
use crate::process::{Answer, Client, Gate, copy_dir};

/// Who stands for the election while the gate is stopped.
struct Another;

impl Successor for Another {
    fn send(&mut self, client: &mut Client) -> std::io::Result<()> {
        client.send(request("campaign", &json!({ "candidate": id(99), "enter": true, "ttl_ms": 1000 })).as_bytes())
    }

    fn hear(&mut self, _: std::io::Result<Answer>) {}
}

fn request(action: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("POST /-/elections/app/{action} HTTP/1.1\r\nhost: gate\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn id(number: u8) -> String {
    URL_SAFE_NO_PAD.encode([number; 16])
}

struct Player {
    site: Site,
    /// Who was told of which token, in order.
    told: Vec<(u8, u64)>,
    /// Who leads, as far as is known.
    leader: Option<u8>,
    wrong: Vec<String>,
}

/// A directory that an earlier gate has left.
pub fn template() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::start(dir.path(), &args(dir.path()).each_ref().map(String::as_str));
    assert_eq!(post(&gate, "campaign", &json!({ "candidate": id(1), "enter": true })).expect("an answer").status, 200);
    assert_eq!(post(&gate, "resign", &json!({ "candidate": id(1) })).expect("an answer").status, 200);
    gate.kill();
    dir
}

fn args(dir: &std::path::Path) -> [String; 4] {
    ["--sqlite".into(), dir.join("app.db").to_str().expect("UTF-8").into(), "--fence".into(), "app".into()]
}

fn post(gate: &Gate, action: &str, body: &Value) -> std::io::Result<Answer> {
    let mut client = Client::connect(gate.data)?;
    client.send(request(action, body).as_bytes())?;
    client.read_answer()
}

/// The whole history, with the gate's first life armed like this.
pub fn play(template: &tempfile::TempDir, rules: &str) -> Played {
    let dir = copy_dir(template.path());
    let args = args(dir.path());
    let site = Site::new(dir, &args.each_ref().map(String::as_str), rules, Box::new(Another));
    let mut player = Player { site, told: vec![(1, 1)], leader: None, wrong: Vec::new() };
    for number in 2..6 {
        player.stand(number);
        player.renew(number);
        player.resign(number);
    }
    player.site.terminate();
    player.stand(6);
    player.end()
}

impl Plays for Player {
    fn site(&mut self) -> &mut Site {
        &mut self.site
    }

    fn look(&mut self) {
        let highest = self.told.iter().map(|told| told.1).max().unwrap_or(0);
        let election = self.site.gate().client().get("/-/elections/app").json();
        let last = election["last_token"].as_str().map_or(0, |token| token.parse().expect("a number"));
        if last < highest {
            self.wrong.push(format!("the last token is {last} after a restart, and {highest} was told"));
        }
        if let Some(leader) = self.leader {
            let answer = post(self.site.gate(), "renew", &json!({ "candidate": id(leader) })).expect("an answer");
            if answer.status == 200 {
                self.hear(leader, &answer);
            } else {
                self.wrong.push(format!("candidate {leader} led, and is told {answer:?}"));
            }
        }
    }
}

impl Player {
    /// Asks until there is an answer of this status.
    fn ask(&mut self, action: &str, body: &Value, wanted: &[u16]) -> Answer {
        let started = Instant::now();
        loop {
            let answer = post(self.gate(), action, body);
            match answer {
                Ok(answer) if wanted.contains(&answer.status) => return answer,
                answer => assert!(started.elapsed() < LONG, "{action}: {answer:?}"),
            }
        }
    }

    fn hear(&mut self, number: u8, answer: &Answer) {
        let token = answer.json()["token"].as_str().map_or(0, |token| token.parse().expect("a number"));
        self.told.push((number, token));
    }

    fn stand(&mut self, number: u8) {
        let body = json!({ "candidate": id(number), "enter": true, "ttl_ms": 60_000, "wait_ms": 2000 });
        let answer = self.ask("campaign", &body, &[200]);
        self.hear(number, &answer);
        self.leader = Some(number);
    }

    fn renew(&mut self, number: u8) {
        let answer = self.ask("renew", &json!({ "candidate": id(number) }), &[200]);
        self.hear(number, &answer);
    }

    fn resign(&mut self, number: u8) {
        self.leader = None;
        self.ask("resign", &json!({ "candidate": id(number) }), &[200, 410]);
    }

    fn end(mut self) -> Played {
        self.site.rest();
        self.site.kill();
        for (at, (number, token)) in self.told.iter().enumerate() {
            for (other, before) in &self.told[..at] {
                if before > token || (before == token) != (other == number) {
                    self.wrong
                        .push(format!("candidate {number} was told of token {token}, and {other} of {before} before"));
                }
            }
        }
        let pauses = *self.site.pauses.lock().unwrap();
        Played { wrong: self.wrong, hits: self.site.hits(), lives: self.site.lives, pauses }
    }
}
