//! An etcd cluster, one member on each machine of the network.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};
use hyper::Method;

use super::network::{Network, client_address, inner_address, tool};
use crate::cli::demo::look::beside;
use crate::cli::demo::scenario::Failed;
use crate::cli::demo::stage::Stage;
use crate::endpoint::{Call, Endpoint, Options};

/// etcd's usual ports, for members and for clients.
const INNER_PORT: u16 = 2380;
const CLIENT_PORT: u16 = 2379;
/// How long a member may take to answer; on the side without a majority it never does.
pub const ANSWER_TIME: Duration = Duration::from_millis(500);
/// How often members are asked.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A cluster that runs. Its members are numbered as their machines.
#[derive(Debug)]
pub struct Cluster {
    /// How many members there are.
    pub size: u8,
}

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    id: u64,
    /// Who leads the cluster, as far as it knows.
    leader: Option<u64>,
}

/// Where etcd is, if it is here.
pub fn program() -> Option<PathBuf> {
    tool("etcd")
}

/// The process of a member.
pub fn lane(member: u8) -> String {
    format!("m{member}")
}

impl Cluster {
    /// Starts one, and waits until all members know their leader.
    ///
    /// # Errors
    /// It doesn't start.
    pub async fn start(stage: &mut Stage, network: &Network, size: u8) -> Result<Cluster, Failed> {
        let program = program().ok_or_else(|| Failed::Broken("there is no etcd".into()))?;
        for member in 1..=size {
            let arguments = arguments(stage, member, size);
            network.start(stage, member, &lane(member), &program, &arguments)?;
            stage.is_essential(&lane(member));
            if member == 1 {
                // A member asks the others for a cluster that is there already. One that has begun to listen and doesn't serve yet
                // lets it wait for a second. So the first one serves before the others ask.
                let url = format!("http://{}:{INNER_PORT}", inner_address(member));
                beside(stage, "the first member of etcd serves", serves(url)).await?;
            }
        }
        let cluster = Cluster { size };
        let all: Vec<u8> = (1..=size).collect();
        cluster.until_led(stage, &all, &all).await?;
        Ok(cluster)
    }

    /// The address by which candidates reach these members, as coordinators' addresses are written.
    pub fn address(&self, members: &[u8]) -> String {
        let hosts: Vec<String> =
            members.iter().map(|member| format!("{}:{CLIENT_PORT}", client_address(*member))).collect();
        format!("etcd://{}?timeout={}ms", hosts.join(","), ANSWER_TIME.as_millis())
    }

    /// Waits until all of `asked` know the same leader, one of `among`; its number.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn until_led(&self, stage: &mut Stage, asked: &[u8], among: &[u8]) -> Result<u8, Failed> {
        let asking = async {
            loop {
                let mut said = Vec::new();
                for member in 1..=self.size {
                    let is_asked = asked.contains(&member) || among.contains(&member);
                    said.push(if is_asked { status(member).await } else { None });
                }
                let of = |member: u8| said.get(usize::from(member) - 1).copied().flatten();
                let leads = |member: &u8| {
                    let id = of(*member).map(|status| status.id);
                    id.is_some() && asked.iter().all(|asked| of(*asked).and_then(|status| status.leader) == id)
                };
                if let Some(leader) = among.iter().copied().find(leads) {
                    return leader;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        beside(stage, "etcd has a leader", asking).await
    }

    /// Waits until this member knows of no leader.
    ///
    /// # Errors
    /// It goes on knowing of one.
    pub async fn until_leaderless(&self, stage: &mut Stage, member: u8) -> Result<(), Failed> {
        let asking = async {
            while status(member).await.is_none_or(|status| status.leader.is_some()) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        beside(stage, "etcd's old leader steps down", asking).await
    }

    /// Has this member write a key. `false`: it doesn't in the time of an answer.
    pub async fn writes(&self, member: u8) -> bool {
        within_answer_time(async {
            let mut client = connect(member).await?;
            client.put("fencegate-demo", "written", None).await.ok()
        })
        .await
        .is_some()
    }

    /// What this member has at the first key of an election, read with nobody else asked: serializably, in etcd's word.
    pub async fn stored(&self, member: u8, election: &str) -> Option<String> {
        within_answer_time(async {
            let mut client = connect(member).await?;
            let options = GetOptions::new().with_prefix().with_serializable();
            let answer = client.get(format!("{election}/"), Some(options)).await.ok()?;
            Some(answer.kvs().first()?.value_str().ok()?.to_owned())
        })
        .await
    }
}

/// Waits no longer than for an answer. Boxed: what etcd's client does is large, and what waits for it isn't to be.
fn within_answer_time<'a, T: 'a>(asking: impl Future<Output = Option<T>> + 'a) -> Asking<'a, T> {
    Box::pin(async { tokio::time::timeout(ANSWER_TIME, asking).await.ok().flatten() })
}

type Asking<'a, T> = Pin<Box<dyn Future<Output = Option<T>> + 'a>>;

fn arguments(stage: &Stage, member: u8, size: u8) -> Vec<String> {
    let inner = |member: u8| format!("http://{}:{INNER_PORT}", inner_address(member));
    let client = format!("http://{}:{CLIENT_PORT}", client_address(member));
    let all: Vec<String> = (1..=size).map(|member| format!("{}={}", lane(member), inner(member))).collect();
    let own = inner(member);
    [
        format!("--name={}", lane(member)),
        format!("--data-dir={}", stage.dir().join(lane(member)).display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={own}"),
        format!("--initial-advertise-peer-urls={own}"),
        format!("--initial-cluster={}", all.join(",")),
        "--heartbeat-interval=50".into(),
        "--election-timeout=500".into(),
        // So that members which come back don't depose the leader only because they were away.
        "--pre-vote=true".into(),
        "--logger=zap".into(),
        "--log-level=error".into(),
        // What is lost with the machine's power was never to be kept.
        "--unsafe-no-fsync".into(),
    ]
    .into()
}

async fn connect(member: u8) -> Option<Client> {
    let options = ConnectOptions::new().with_connect_timeout(ANSWER_TIME).with_timeout(ANSWER_TIME);
    Client::connect([format!("http://{}:{CLIENT_PORT}", client_address(member))], Some(options)).await.ok()
}

async fn status(member: u8) -> Option<Status> {
    within_answer_time(async {
        let status = connect(member).await?.status().await.ok()?;
        Some(Status { id: status.header()?.member_id(), leader: Some(status.leader()).filter(|leader| *leader != 0) })
    })
    .await
}

/// Waits until a member serves the others.
async fn serves(url: String) {
    let options = Options { connect_time: ANSWER_TIME, answer_time: ANSWER_TIME, ..Options::default() };
    let Ok(member) = Endpoint::parse(&url, options) else { return };
    while member.send(&Call::new(Method::GET, "/version")).await.is_err() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
