//! One term: the candidacy, the claim, the command, and what is left to do after it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::client::{self, Leadership, Lost};
use crate::coordinator::any::AnyCoordinator;
use crate::coordinator::{Bid, Coordinator, CoordinatorError, Leader};
use crate::fence::claim::BearerToken;
use crate::fence::{FenceName, Holder, Token};

use super::super::failure::Failure;
use super::super::identity::Hidden;
use super::claim::{Claimed, Gate};
use super::credential::Credentials;
use super::events::Events;
use super::run::{self, Run, Whom};
use super::signals::{self, Signals};
use super::warden::hold::Hold;
use super::warden::wire::Status;
use super::{EXIT_NOT_EXECUTABLE, LeadArgs};

/// How long the farewell may take: to resign, and to ask who leads now.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// How long the end of the program waits where a candidate has gone away, for the coordinator to be told so.
const WITHDRAW_TIME: Duration = Duration::from_millis(500);
/// The pause before it stands again, where its place in the queue has lapsed.
const STAND_AGAIN: Duration = Duration::from_millis(100);

/// What is the same in every term.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The arguments.
    pub args: &'a LeadArgs,
    /// The gate, unless it is to lead without.
    pub gate: Option<Gate>,
    /// The coordinator.
    pub coordinator: AnyCoordinator,
    /// As it was given.
    pub coordinator_name: String,
    /// The fence.
    pub fence: FenceName,
    /// The candidate's name for itself.
    pub holder: Holder,
    /// The secret of the principal that it is.
    pub secret: Option<Hidden>,
    /// Its credential, while it leads.
    pub credentials: Credentials,
}

/// How a term ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The command ended by itself while it led.
    Itself {
        /// How.
        status: Status,
        /// Whether a signal that asks to end was passed on to it before.
        told: bool,
    },
    /// The leadership was lost, and nothing is left of the command.
    Lost(Lost),
    /// A signal asked to end before the command was started.
    Told(Signal),
    /// It wasn't elected in time.
    NotElected,
    /// Something else is wrong.
    Failed(Failure),
}

impl Setup<'_> {
    /// Whether the gate is there and has the fence: before anybody stands for election, since a leader without a gate can't work.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], [`Failure::Refused`].
    pub async fn look_at_gate(&self) -> Result<(), Failure> {
        match &self.gate {
            // A gate may know this one by the credential only that it has once it leads.
            Some(_) if self.credentials.is_signed_here() && self.secret.is_none() => Ok(()),
            Some(gate) => gate.mark(None).await.map(drop),
            None => Ok(()),
        }
    }

    /// What the command finds in its environment, and with `None` doesn't find.
    pub fn environment(&self, token: Token) -> Vec<(String, Option<String>)> {
        let mut env = vec![
            ("FENCING_TOKEN".into(), Some(token.to_string())),
            ("FENCING_FENCE".into(), Some(self.fence.to_string())),
            ("FENCING_HOLDER".into(), Some(self.holder.to_string())),
            ("FENCEGATE_AUTH_TOKEN".into(), Some(self.auth_token(token))),
        ];
        // Without a gate, it is the command's own affair where it writes.
        if self.gate.is_some() {
            env.push(("FENCEGATE_URL".into(), Some(self.args.gate.clone())));
            let identity = self.args.identity.variables();
            env.extend(identity.map(|(name, file)| (name.into(), file.to_str().map(str::to_owned))));
            if let Some(file) = self.credentials.file() {
                // The commands of this program show it, too.
                for name in ["FENCEGATE_CREDENTIAL_FILE", "FENCEGATE_SECRET_FILE"] {
                    env.push((name.into(), file.to_str().map(str::to_owned)));
                }
            }
        }
        env
    }

    /// The `fgt.` form, with the secret where there is one: a driver has no other place for it.
    fn auth_token(&self, token: Token) -> String {
        match &self.secret {
            // A leadership credential has no place in this form, and needs none.
            Some(Hidden(secret)) if self.gate.is_some() && secret.starts_with("fgs.") => {
                BearerToken::render_with_secret(token, &self.holder, secret)
            }
            _ => BearerToken::render(token, Some(&self.holder)),
        }
    }
}

/// Stands for election, and leads once.
pub async fn term(setup: &Setup<'_>, signals: &mut Signals, events: &Events) -> Ended {
    let cant = |error: std::io::Error| {
        Ended::Failed(Failure::exit(EXIT_NOT_EXECUTABLE, format!("the command's warden can't be started: {error}")))
    };
    // Ready before the election, so that a leader starts without delay.
    let mut hold =
        match stdin(setup.args.supervise).and_then(|stdin| Hold::new(&setup.args.command, setup.args.grace, &stdin)) {
            Ok(hold) => hold,
            Err(error) => return cant(error),
        };
    let leadership = match elected(setup, signals, events).await {
        Ok(leadership) => leadership,
        Err(ended) => {
            hold.finish().await;
            tokio::time::sleep(WITHDRAW_TIME).await;
            return ended;
        }
    };
    let mut clean = true;
    let ended = match claimed(setup, &leadership, signals, events).await {
        Ok(()) => {
            if let Err(error) = setup.credentials.write(&leadership) {
                hold.finish().await;
                let why = format!("--credential-file: {error}");
                return Ended::Failed(Failure::Other(why));
            }
            let ended;
            (ended, clean) = Run::new(setup, events, &leadership, &mut hold).run(signals).await;
            ended
        }
        Err(ended) => ended,
    };
    setup.credentials.remove();
    if clean {
        // Nothing of the command is left: whoever is next needn't wait for anything else.
        farewell(setup, leadership, &ended, events).await;
        hold.finish().await;
    } else {
        let killed = hold.finish().await;
        let told = "the command's warden was killed, and what it left behind has been killed, too".to_owned();
        events.tell("killed", Some(leadership.token()), json!({ "pids": killed, "why": "warden" }), Some(told));
        farewell(setup, leadership, &ended, events).await;
    }
    ended
}

/// The command's standard input. A command that is started again and again has no use for a terminal, which would stop it.
fn stdin(is_service: bool) -> std::io::Result<OwnedFd> {
    let stdin = std::io::stdin();
    if is_service && std::io::IsTerminal::is_terminal(&stdin) {
        return Ok(std::fs::File::open("/dev/null")?.into());
    }
    stdin.as_fd().try_clone_to_owned()
}

async fn elected(setup: &Setup<'_>, signals: &mut Signals, events: &Events) -> Result<Leadership, Ended> {
    let Setup { args, coordinator, coordinator_name, holder, .. } = setup;
    let election = &args.election;
    let told = format!("standing for election {election} at {coordinator_name} as {holder}");
    events.tell("campaigning", None, json!({ "holder": holder, "coordinator": coordinator_name }), Some(told));
    let bid = Bid { holder: Some(holder.clone()), ttl: args.ttl };
    let campaign = async {
        loop {
            match client::campaign(coordinator, election, &bid).await {
                // Its place has lapsed while this machine slept, or the like. It has never led.
                Err(CoordinatorError::Lost) => tokio::time::sleep(STAND_AGAIN).await,
                outcome => return outcome,
            }
        }
    };
    let give_up = args.wait.map(|wait| Instant::now() + wait);
    tokio::pin!(campaign);
    let leadership = loop {
        tokio::select! {
            outcome = &mut campaign => match outcome {
                Ok(leadership) => break leadership,
                Err(error) => return Err(Ended::Failed(failure(&error))),
            },
            signal = signals.next() => match signal {
                Signal::TSTP => run::stop(Whom::This),
                signal if signals::is_ending(signal) => return Err(Ended::Told(signal)),
                _ => {}
            },
            () = run::at(give_up) => return Err(Ended::NotElected),
        }
    };
    let token = leadership.token();
    let told = format!("leading {election} with token {token}");
    events.tell("elected", Some(token), json!({ "holder": holder }), Some(told));
    Ok(leadership)
}

fn failure(error: &CoordinatorError) -> Failure {
    let text = error.to_string();
    match error {
        CoordinatorError::Ttl { .. } => Failure::Usage(format!("--ttl: {text}")),
        CoordinatorError::TokensExhausted(_) | CoordinatorError::Denied(_) => Failure::Refused(text),
        CoordinatorError::Lost
        | CoordinatorError::Full { .. }
        | CoordinatorError::Unavailable(_)
        | CoordinatorError::OutcomeUnknown(_) => Failure::Unreachable(text),
    }
}

async fn claimed(
    setup: &Setup<'_>,
    leadership: &Leadership,
    signals: &mut Signals,
    events: &Events,
) -> Result<(), Ended> {
    let Some(gate) = &setup.gate else { return Ok(()) };
    let token = leadership.token();
    // A gate that is out of reach is tried for as long as a lease lasts; then another candidate may have more luck.
    let claim = gate.claim(leadership, setup.args.ttl, |why| {
        events.tell(
            "claiming",
            Some(token),
            json!({ "fence": gate.fence(), "reason": why }),
            Some(format!("waiting to claim fence {}: {why}", gate.fence())),
        );
    });
    tokio::pin!(claim);
    let claimed = loop {
        tokio::select! {
            claimed = &mut claim => break claimed,
            why = leadership.lost() => return Err(lost(leadership, events, why)),
            signal = signals.next() => match signal {
                Signal::TSTP => run::stop(Whom::This),
                signal if signals::is_ending(signal) => return Err(Ended::Told(signal)),
                _ => {}
            },
        }
    };
    // A successor's claim is no refusal to speak of where the leadership was lost meanwhile.
    if let Err(why) = leadership.check() {
        return Err(lost(leadership, events, why));
    }
    match claimed {
        Claimed::Admitted { previous } => {
            let members = json!({ "fence": gate.fence(), "previous": previous });
            events.tell("claimed", Some(token), members, None);
            Ok(())
        }
        Claimed::Refused(why) => Err(Ended::Failed(Failure::Refused(why))),
        Claimed::Unreachable(why) => Err(Ended::Failed(Failure::Unreachable(why))),
    }
}

fn lost(leadership: &Leadership, events: &Events, why: Lost) -> Ended {
    let (election, token) = (leadership.election(), leadership.token());
    let told = format!("no longer the leader of {election} (token {token}): {why}");
    events.tell("lost", Some(token), json!({ "reason": why.to_string() }), Some(told));
    Ended::Lost(why)
}

/// Resigns, and where the leadership was lost, tells who has it now.
async fn farewell(setup: &Setup<'_>, leadership: Leadership, ended: &Ended, events: &Events) {
    let token = leadership.token();
    let resigned = timeout(FAREWELL_TIME, leadership.resign());
    let Ended::Lost(_) = ended else {
        if let Ok(Ok(())) = resigned.await {
            events.tell("resigned", Some(token), json!({}), None);
        }
        return;
    };
    let successor = timeout(FAREWELL_TIME, setup.coordinator.leader(&setup.args.election));
    let mark = async {
        match &setup.gate {
            Some(gate) => timeout(FAREWELL_TIME, gate.mark(None)).await.ok().and_then(Result::ok).flatten(),
            None => None,
        }
    };
    // Resigned although it is lost: what may be left of its lease holds up nobody.
    let (_, successor, mark) = tokio::join!(resigned, successor, mark);
    let successor = successor.ok().and_then(Result::ok).flatten().filter(|leader| leader.token > token);
    replaced(setup, token, successor, mark, events);
}

fn replaced(
    setup: &Setup<'_>,
    token: Token,
    successor: Option<Leader>,
    mark: Option<(Token, Option<String>)>,
    events: &Events,
) {
    let election = &setup.args.election;
    let highest = mark.filter(|(highest, _)| *highest > token);
    let mut told = Vec::new();
    if let Some(Leader { token, holder }) = &successor {
        let holder = holder.as_ref().map_or("somebody without a name", |holder| holder.as_str());
        told.push(format!("{holder} leads {election} with token {token}"));
    }
    if let Some((highest, _)) = &highest {
        told.push(format!("the gate has admitted token {highest} on fence {}", setup.fence));
    }
    let members = json!({
        "leader": successor.map(|Leader { token, holder }| json!({ "token": token, "holder": holder })),
        "highest": highest.map(|(highest, holder)| json!({ "token": highest, "holder": holder })),
    });
    if told.is_empty() {
        return;
    }
    let told = format!("you've been replaced: {}", told.join("; "));
    events.tell("replaced", Some(token), members, Some(told));
}
