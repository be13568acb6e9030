//! Tokens that are believed only if their coordinator confirms them, for both kinds of resource: before a coordinator that says
//! what a test wants, and before the gate's own in a real gate.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencegate::coordinator::{CoordinatorError, Followed, Told};
use fencegate::fence::drain::{OnUnknown, Policy};
use fencegate::fence::{FenceName, Leader};
use fencegate::resource::http::fences::{Fences, Scope};
use fencegate::resource::http::{
    Http, Limits as HttpLimits, Options as HttpOptions, Protocol, Rules, Template, Upstream,
};
use fencegate::resource::sqlite::{Options, Sqlite, TableFence};
use fencegate::resource::{Boxed, Event, Issuer, Resource};
use fencegate::server::{Guard, Mount, Server, Setup};
use fencegate::trust::{Desk, Elections, Follower, Known, Limits, Office, Source, Trusted, names};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::gate::{LONG, patient};
use crate::process::{Answer, Client, until};
use crate::upstream::hostile::Hostile;

mod asked;
mod eager;
#[cfg(feature = "etcd")]
mod etcd;
mod floods;
mod gates;

/// Times that no test runs into.
pub const PATIENT: Limits = Limits {
    ask_time: LONG,
    wait_time: LONG,
    pace: Duration::from_millis(1),
    questions_max: 8,
    elections_max: 4_096,
    waiting_max: 65_536,
};

/// A coordinator that says what it is told to say.
pub struct Scripted {
    leaders: Mutex<HashMap<String, Leader>>,
    followers: Mutex<Vec<UnboundedSender<Told>>>,
    counts: Mutex<Counts>,
    /// Answers wait while this is true; what they say was decided when the question came.
    held: watch::Sender<bool>,
    is_broken: watch::Sender<bool>,
}

/// How it was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub asked: usize,
    pub under_way: usize,
    pub most_under_way: usize,
}

impl Scripted {
    fn new() -> Arc<Scripted> {
        Arc::new(Scripted {
            leaders: Mutex::default(),
            followers: Mutex::default(),
            counts: Mutex::default(),
            held: watch::Sender::new(false),
            is_broken: watch::Sender::new(false),
        })
    }

    /// From now on this token leads, and nobody is told.
    pub fn elect(&self, election: &str, token: u64, holder: &str) -> Leader {
        let holder = (!holder.is_empty()).then(|| holder.parse().unwrap());
        let leader = Leader { token: token.to_string().parse().unwrap(), holder };
        self.leaders.lock().unwrap().insert(election.to_owned(), leader.clone());
        leader
    }

    /// The same, and who follows is told.
    pub fn announce(&self, election: &str, token: u64, holder: &str) {
        let told = Told { election: election.parse().unwrap(), leader: Some(self.elect(election, token, holder)) };
        self.followers.lock().unwrap().retain(|follower| follower.send(told.clone()).is_ok());
    }

    /// Nobody leads.
    pub fn depose(&self, election: &str) {
        self.leaders.lock().unwrap().remove(election);
    }

    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Out of reach, and following ends.
    pub fn break_off(&self, is_broken: bool) {
        self.is_broken.send_replace(is_broken);
        if is_broken {
            self.followers.lock().unwrap().clear();
        }
    }

    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    pub fn until_asked(&self, times: usize) {
        until("the coordinator is asked", || self.counts().asked >= times);
    }

    pub fn until_followed(&self) {
        until("somebody follows", || !self.followers.lock().unwrap().is_empty());
    }

    fn is_broken(&self) -> Result<(), CoordinatorError> {
        let broken = || CoordinatorError::Unavailable("the test has broken it".to_owned());
        if *self.is_broken.borrow() { Err(broken()) } else { Ok(()) }
    }
}

impl Source for Scripted {
    fn leader<'a>(&'a self, election: &'a FenceName) -> Boxed<'a, Result<Option<Leader>, CoordinatorError>> {
        let answer = self.is_broken().map(|()| self.leaders.lock().unwrap().get(election.as_str()).cloned());
        Box::pin(async move {
            {
                let mut counts = self.counts.lock().unwrap();
                counts.asked += 1;
                counts.under_way += 1;
                counts.most_under_way = counts.most_under_way.max(counts.under_way);
            }
            let _ = self.held.subscribe().wait_for(|held| !held).await;
            self.counts.lock().unwrap().under_way -= 1;
            answer
        })
    }

    fn follow<'a>(&'a self, followed: &'a Followed) -> Boxed<'a, Result<UnboundedReceiver<Told>, CoordinatorError>> {
        Box::pin(async move {
            self.is_broken()?;
            let (tell, told) = unbounded_channel();
            for (election, leader) in self.leaders.lock().unwrap().iter().filter(|(name, _)| followed.has(name)) {
                let _ = tell.send(Told { election: election.parse().unwrap(), leader: Some(leader.clone()) });
            }
            self.followers.lock().unwrap().push(tell);
            Ok(told)
        })
    }
}

/// The two kinds of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sql,
    Http,
}

pub const KINDS: [Kind; 2] = [Kind::Sql, Kind::Http];

impl Kind {
    /// A fence of the resource, and the election that issues its tokens.
    pub fn fence(self) -> &'static str {
        match self {
            Kind::Sql => "app",
            Kind::Http => "stock/7",
        }
    }

    pub fn election(self) -> &'static str {
        match self {
            Kind::Sql => "led/app",
            Kind::Http => "shelf-7",
        }
    }
}

/// A gate in this process: the database `app`, whose table `jobs` has a fence of its own, below `/`, and an HTTP service with the
/// fences `stock/{1}` below `/stock`. It goes on until the process ends; its coordinator is asked for as long as this lives.
pub struct World {
    pub coordinator: Arc<Scripted>,
    pub data: SocketAddr,
    pub upstream: Hostile,
    sql: Arc<Sqlite>,
    http: Arc<Http>,
    trusted: [Trusted; 2],
    office: Office,
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        World::with(PATIENT, true, true)
    }

    /// `believes`: whether the coordinator is asked at all.
    pub fn with(limits: Limits, asks: bool, enforce: bool) -> World {
        let dir = tempfile::tempdir().unwrap();
        let upstream = Hostile::start(dir.path());
        let (office, coordinator) = (Office::open().unwrap(), Scripted::new());
        let desk = Desk::new("scripted", office.runtime().clone(), limits);
        desk.open(Arc::<Scripted>::clone(&coordinator));
        let known = Arc::new(Known::default());
        let template = Template::parse("stock/{1}").unwrap();
        let fences = names::Fences::Known(vec!["app".parse().unwrap(), "jobs".parse().unwrap()]);
        let trusted = [
            Elections::parse("led/{fence}", fences).unwrap(),
            Elections::parse("shelf-{1}", names::Fences::Made(template.clone())).unwrap(),
        ]
        .map(|elections| Trusted { desk: Arc::clone(&desk), known: Arc::clone(&known), elections });
        let trust = |which: usize| asks.then(|| Arc::new(trusted[which].clone()) as Arc<dyn Issuer>);
        let sql = Arc::new(
            Sqlite::open(Options {
                name: "app".into(),
                file: dir.path().join("app.db"),
                fence: "app".parse().unwrap(),
                tables: vec![TableFence { pattern: "jobs".into(), fence: "jobs".parse().unwrap() }],
                limits: patient(),
                enforce,
                trust: trust(0),
            })
            .unwrap(),
        );
        let policy = Policy { drain_ms: 600_000, settle_ms: 600_000, on_unknown: OnUnknown::Wait, enforce };
        let owns = template.clone();
        let scope =
            Scope { resource: "stock".into(), policy, owns: Box::new(move |name| owns.owns(name)), trust: trust(1) };
        let http = Arc::new(
            Http::open(HttpOptions {
                name: "stock".into(),
                mount: "/stock".into(),
                upstream: Upstream::parse(&upstream.url(), Protocol::Auto, None).unwrap(),
                fence: template,
                rules: Rules::default(),
                limits: HttpLimits::default(),
                fences: Fences::open(dir.path(), vec![scope]).unwrap(),
                scope: 0,
                enforce,
            })
            .unwrap(),
        );
        let data = serve(Arc::<Sqlite>::clone(&sql), Arc::<Http>::clone(&http));
        let world = World { coordinator, data, upstream, sql, http, trusted, office, dir };
        if !asks {
            return world;
        }
        // The schema is there already when a test begins: of a leader's before all others.
        world.coordinator.elect("led/app", 1, "");
        world.coordinator.elect("led/jobs", 1, "");
        let schema = world.sql("app=1, jobs=1", &["CREATE TABLE t (v)", "CREATE TABLE jobs (v)"]);
        assert_eq!(schema.status, 200, "{schema:?}");
        world.until_nothing_is_asked();
        world.coordinator.elect("shelf-7", 1, "");
        assert_eq!(world.write(Kind::Http, "1", "").status, 200);
        world.until_nothing_is_asked();
        world
    }

    /// Follows the elections of both resources, for as long as this lives.
    pub fn follow(&self) {
        let [sql, http] = &self.trusted;
        let resources: Vec<(Arc<dyn Resource>, Elections)> = vec![
            (Arc::<Sqlite>::clone(&self.sql), sql.elections.clone()),
            (Arc::<Http>::clone(&self.http), http.elections.clone()),
        ];
        let follower = Follower::new(Arc::clone(&sql.desk), Arc::clone(&sql.known), resources);
        self.office.runtime().spawn(follower.run(false));
        self.coordinator.until_followed();
    }

    /// Waits until so many wait for a question that isn't sent yet.
    pub fn until_waiting(&self, number: usize) {
        until("they wait for the next question", || self.trusted[0].desk.waiting() == number);
    }

    /// Waits until no election has a place among those that are asked about: of these there may be few.
    fn until_nothing_is_asked(&self) {
        until("nothing is asked", || self.trusted[0].desk.elections() == 0);
    }

    pub fn resource(&self, kind: Kind) -> &dyn Resource {
        match kind {
            Kind::Sql => &*self.sql,
            Kind::Http => &*self.http,
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.data).unwrap()
    }

    pub fn sql(&self, tokens: &str, statements: &[&str]) -> Answer {
        self.client().sql(Some(tokens), statements)
    }

    /// The bytes of a write.
    pub fn bytes(kind: Kind, token: &str, holder: &str) -> Vec<u8> {
        let body = r#"{"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t VALUES (1)"}},{"type":"close"}]}"#;
        let (start, body) = match kind {
            Kind::Sql => ("POST /v3/pipeline", body),
            Kind::Http => ("PUT /stock/7/doc", "hello"),
        };
        let holder = if holder.is_empty() { String::new() } else { format!("fencing-holder: {holder}\r\n") };
        let len = body.len();
        format!(
            "{start} HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\n{holder}content-length: {len}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Sends a write and leaves the answer to whoever has the connection.
    pub fn begin(&self, kind: Kind, token: &str, holder: &str) -> Client {
        let mut client = self.client();
        client.send(&World::bytes(kind, token, holder)).unwrap();
        client
    }

    pub fn write(&self, kind: Kind, token: &str, holder: &str) -> Answer {
        self.begin(kind, token, holder).read_answer().unwrap()
    }

    pub fn read(&self, kind: Kind, token: &str) -> Answer {
        match kind {
            Kind::Sql => self.sql(token, &["SELECT count(*) FROM t"]),
            Kind::Http => self.client().request("GET", "/stock/7/doc", &[("fencing-token", token)], b"").unwrap(),
        }
    }

    pub fn begin_claim(&self, fence: &str, token: &str) -> Client {
        let path = fence.replace('/', "%2F");
        let mut client = self.client();
        let head = format!("POST /-/fences/{path}/claim HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\n");
        client.send(format!("{head}content-length: 0\r\n\r\n").as_bytes()).unwrap();
        client
    }

    pub fn claim(&self, fence: &str, token: &str) -> Answer {
        self.begin_claim(fence, token).read_answer().unwrap()
    }

    /// The mark and its holder, as `7` or `7 node-a`; empty where there is none.
    pub fn mark(&self, kind: Kind) -> String {
        self.mark_of(kind, kind.fence())
    }

    pub fn mark_of(&self, kind: Kind, fence: &str) -> String {
        let info = self.resource(kind).fence(fence).unwrap();
        let parts = [info.highest.map(|token| token.to_string()), info.holder.map(|holder| holder.to_string())];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// How many writes have reached the resource.
    pub fn applied(&self, kind: Kind) -> usize {
        match kind {
            Kind::Http => self.upstream.applied().len(),
            Kind::Sql => {
                let count = self.client().sql(None, &["SELECT count(*) FROM t"]).json();
                let value = &count["results"][0]["response"]["result"]["rows"][0][0]["value"];
                value.as_str().unwrap().parse().unwrap()
            }
        }
    }

    /// What happened to the kind's fence, the newest first.
    pub fn history(&self, kind: Kind) -> Vec<Event> {
        let fence = kind.fence().parse().unwrap();
        block_on(self.resource(kind).history(&fence, i64::MAX, 100)).unwrap()
    }

    pub fn reset(&self, kind: Kind, to: u64) {
        let (fence, to) = (kind.fence().parse().unwrap(), to.to_string().parse().unwrap());
        block_on(self.resource(kind).reset(&fence, Some(to), "a test".into())).unwrap();
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn serve(sql: Arc<Sqlite>, http: Arc<Http>) -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Setup {
        listen: any,
        admin: any,
        admin_hosts: Vec::new(),
        resources: vec![Mount { path: "/".into(), resource: sql }, Mount { path: "/stock".into(), resource: http }],
        coordinator: None,
        guard: Guard::default(),
        connections: 1000,
        admin_connections: 100,
        header_time: LONG,
        send_time: LONG,
        refusals: 1_000_000,
        drain: Duration::from_secs(1),
        threads: 2,
    })
    .unwrap();
    let data = server.data_addr();
    std::thread::spawn(move || server.run());
    data
}

/// What a refusal says: status, code, verdict, applied.
pub fn told(answer: &Answer) -> (u16, String, Option<String>, String) {
    let json = answer.json();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), answer.header("fencing-verdict").map(str::to_owned), text("applied"))
}

pub fn assert_told(answer: &Answer, status: u16, code: &str, verdict: &str) {
    let verdict = (!verdict.is_empty()).then(|| verdict.to_owned());
    assert_eq!(told(answer), (status, code.to_owned(), verdict, "no".to_owned()), "{answer:?}");
}
