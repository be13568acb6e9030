//! The front of a SQLite resource: from HTTP to the database threads and back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response};
use metrics::counter;
use tokio::sync::oneshot;

use crate::access::Right;
use crate::fail::{self, Point};
use crate::fence::claim::PresentedTokens;
use crate::fence::{Claim, FenceName, Mark, Presented, Token, Verdict};
use crate::headers::IDEMPOTENCY_REPLAYED;
use crate::lock::LockFile;
use crate::problem::{Kind, Problem};
use crate::resource::{
    Answering, Boxed, Call, Claimed, Event, FenceInfo, Found, Guarantee, Judged, Knock, Look, News, Resource, Served,
    Tally,
};
use crate::resource::{headers, issuer, refusals};

use super::answers::{Delivery, Waiting};
use super::asked::{self, Asked, Endpoint};
use super::believe::Entered;
use super::db::Db;
use super::fences::{FENCES_MAX, FenceSet, TableFences};
use super::hrana::{self, Pipeline, Version};
use super::once::key::Key;
use super::once::unusable;
use super::program::{Format, Program, Run};
use super::queue;
use super::room::Room;
use super::shared::{Believed, FenceState, Item, Reply, Shared, Work};
use super::store;
use super::stream::Stream;
use super::writer::Writer;
use super::{OpenError, Options, SharedRef, reader, route, spawn};

/// A SQLite resource.
#[derive(Debug)]
pub struct Sqlite {
    pub(super) shared: SharedRef,
    /// For what operators read; never for clients' statements.
    admin: Arc<Mutex<Db>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    _lock: LockFile,
}

/// Where the answer to a request arrives.
pub(super) type Arrives = oneshot::Receiver<Delivery>;

/// Waits for an answer.
pub(super) async fn arrived(arrives: Arrives) -> Result<Reply, Problem> {
    match arrives.await {
        Ok(delivery) => delivery.open(),
        Err(_) => Err(Problem::new(Kind::Unavailable, "the gate is stopping")),
    }
}

impl Sqlite {
    /// Opens the database: locks it, brings its schema up to date, reads its marks, and starts its threads.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: Options) -> Result<Sqlite, OpenError> {
        let Options { name, file, fence, tables, limits, enforce, trust } = options;
        let fences = TableFences::new(fence, &tables).ok_or(OpenError::TooManyFences { max: FENCES_MAX })?;
        let lock = store::lock(&file)?;
        store::migrate(&file, limits.lock_wait)?;
        let readers = limits.readers;
        let shared = Arc::new(Shared::new(name, file, fences, limits, enforce, trust));
        let cannot = |why: String| OpenError::file(&shared.file, &why);
        let writer = Writer::open(&shared).map_err(|error| cannot(error.message))?;
        let admin = reader::open(&shared).map_err(|error| cannot(error.message))?;
        let start =
            |name: &str, run: Box<dyn FnOnce() + Send>| spawn(name, run).map_err(|error| cannot(error.to_string()));
        let writer = start("fg-writer", Box::new(move || writer.run()))?;
        let mut threads = Vec::with_capacity(readers);
        for number in 0..readers {
            let db = reader::open(&shared).map_err(|error| cannot(error.message))?;
            let shared = Arc::clone(&shared);
            threads.push(start(&format!("fg-reader-{number}"), Box::new(move || reader::run(&shared, db)))?);
        }
        Ok(Sqlite {
            admin: Arc::new(Mutex::new(admin)),
            writer: Mutex::new(Some(writer)),
            readers: Mutex::new(threads),
            _lock: lock,
            shared,
        })
    }

    /// The claims that a request makes on this database's fences.
    ///
    /// # Errors
    /// [`Kind::WrongFence`] for a fence that the database doesn't have.
    fn claims(&self, presented: Option<&Presented>) -> Result<(Arc<[Claim]>, FenceSet), Problem> {
        let Some(presented) = presented else { return Ok((Arc::new([]), FenceSet::default())) };
        let fences = &self.shared.fences;
        let mut set = FenceSet::default();
        if let PresentedTokens::Bare(token) = presented.tokens {
            set.insert(FenceSet::OWN);
            let (fence, holder) = (fences.name(FenceSet::OWN).clone(), presented.holder.clone());
            return Ok((Arc::new([Claim { fence, token, holder }]), set));
        }
        let claims = presented.tokens.claims(fences.name(FenceSet::OWN), presented.holder.as_ref());
        for claim in &claims {
            let Some(id) = fences.id(&claim.fence) else {
                let known = fences.names().iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
                let why = format!("fence {} is named, but resource {} has: {known}", claim.fence, self.shared.name);
                let own = self.info(FenceSet::OWN);
                let problem = Problem::new(Kind::WrongFence, why);
                return Err(Problem { fence: Some(own.fence), highest: own.highest, ..problem });
            };
            set.insert(id);
        }
        Ok((claims.into(), set))
    }

    async fn serve(&self, call: Call) -> Result<Served, Problem> {
        let own = self.shared.fences.name(FenceSet::OWN);
        if let Some(caller) = &call.caller {
            caller.may_read_database(self.shared.fences.names())?;
        }
        let given = call.presented(Some(own)).map_err(|problem| {
            // What can't be understood is about the fence that a bare token would speak for: its mark is told, too.
            let mark = self.shared.states[FenceSet::OWN].mark();
            problem.about(own, mark.as_ref().map(|dated| &dated.mark))
        })?;
        let (claims, presented) = self.claims(given.as_ref())?;
        if let Some(caller) = &call.caller {
            // Whether it writes is seen only when it is run. It can write to these fences then, and to no other.
            caller.may_present(Right::Write, &claims)?;
        }
        let asked = Asked::from(call);
        // Before the body is read, and before anything is queued.
        let Entered { claims, changes, raised } = self.enter(claims, presented).await?;
        match self.answer(asked, Arc::clone(&claims), presented).await {
            Err(problem) if !claims.is_empty() && problem.kind.row().verdict.is_none() => {
                Err(self.claimed_all_the_same(problem, claims, presented, changes).await)
            }
            Ok(Served { response, judged: Some(judged) }) if raised.is_some() => {
                Ok(Served { response, judged: Some(Judged { verdict: Verdict::Advanced, ..judged }) })
            }
            served => served,
        }
    }

    /// Whoever presents a token claims, whatever becomes of the rest of the request. The claim of one that could be run was
    /// judged with it, in one transaction; that of one that couldn't be understood is judged now.
    async fn claimed_all_the_same(
        &self,
        problem: Problem,
        claims: Arc<[Claim]>,
        presented: FenceSet,
        changes: bool,
    ) -> Problem {
        let verdict = match self.shared.judge_at_door(&claims) {
            Ok(true) => self.judge(Arc::clone(&claims), presented).await.ok().map(|reply| reply.verdict),
            Ok(false) if changes => Some(Verdict::Advanced),
            Ok(false) => Some(Verdict::Admitted),
            Err(_) => None,
        };
        match verdict {
            Some(verdict) => problem.after(verdict, &claims),
            None => problem,
        }
    }

    async fn answer(&self, asked: Asked, claims: Arc<[Claim]>, presented: FenceSet) -> Result<Served, Problem> {
        let Some(endpoint) = asked::endpoint(&asked.path) else {
            let why = format!("{} is not here; SQL is at v2/pipeline, v3/pipeline and v3/cursor", asked.path);
            return Err(Problem::new(Kind::NotFound, why));
        };
        let (version, format) = match endpoint {
            Endpoint::Hello if matches!(asked.method, Method::GET | Method::HEAD) => {
                let reply = self.judge(Arc::clone(&claims), presented).await?;
                let mut hello = served(Bytes::new(), "text/plain", reply.verdict, claims);
                headers::tell_keys_kept(hello.response.headers_mut(), self.keys_kept_for());
                return Ok(hello);
            }
            Endpoint::Run(version, format) if asked.method == Method::POST => (version, format),
            Endpoint::Hello => return Err(Problem::method_not_allowed("GET, HEAD")),
            Endpoint::Run(..) => return Err(Problem::method_not_allowed("POST")),
        };
        let mut room = self.shared.budget.room(queue::lane(presented));
        let body = asked::read(asked.body, &self.shared.limits, &mut room).await?;
        let key = asked.key?.map(|text| Box::new(Key::of(text, asked.method.as_str(), &asked.path, &body)));
        fail::at(Point::SqliteReceived);
        let arrives = self.run(Arc::clone(&claims), presented, asked.by, key, version, format, &body, room)?;
        fail::at(Point::SqliteQueued);
        // As with the head.
        drop(body);
        let reply = arrived(arrives).await?;
        let mut served = served(reply.body, "application/json", reply.verdict, claims);
        if reply.replayed {
            counter!("fencegate_idempotency_replays_total", "resource" => self.shared.name.clone()).increment(1);
            served.response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        Ok(served)
    }

    /// Runs the body of a `pipeline` or `cursor` request that presents these tokens: all of the gate but HTTP.
    ///
    /// # Errors
    /// A refusal, a body that isn't what Hrana asks for, a limit, or a database that can't be written.
    pub async fn hrana(
        &self,
        presented: Option<&Presented>,
        version: Version,
        format: Format,
        body: &[u8],
    ) -> Result<Reply, Problem> {
        let (claims, fences) = self.claims(presented)?;
        let Entered { claims, raised, .. } = match self.shared.trust {
            Some(_) => self.enter(claims, fences).await?,
            None => Entered { claims, changes: false, raised: None },
        };
        let mut room = self.shared.budget.room(queue::lane(fences));
        room.grow(body.len())?;
        let reply = arrived(self.run(claims, fences, None, None, version, format, body, room)?).await?;
        let verdict = if raised.is_some() { Verdict::Advanced } else { reply.verdict };
        Ok(Reply { verdict, ..reply })
    }

    /// Puts what a body asks for before the database threads. Its answer arrives where this says.
    #[expect(clippy::too_many_arguments, reason = "each is one fact about one request")]
    fn run(
        &self,
        claims: Arc<[Claim]>,
        presented: FenceSet,
        by: Option<String>,
        key: Option<Box<Key>>,
        version: Version,
        format: Format,
        body: &[u8],
        mut room: Room,
    ) -> Result<Arrives, Problem> {
        let parsed = match format {
            Format::Pipeline => Pipeline::parse(body, version),
            Format::Cursor => Pipeline::parse_cursor(body),
        };
        let Pipeline { baton, requests } = parsed.map_err(|error| Problem::new(Kind::BadRequest, error.to_string()))?;
        // Some bytes of JSON become many more in memory.
        room.grow(hrana::weight(&requests))?;
        let run = Run::new(self.shared.limits.result_bytes);
        let program = Program { requests, format };
        if key.is_some() && baton.is_some() {
            return Err(unusable("a request can't go on with a stream"));
        }
        // Without a token it writes nothing.
        let key = key.filter(|_| !claims.is_empty());
        self.submit(claims, presented, self.shared.unasked(), by, baton, key, program, run, room)
    }

    /// Judges claims, and raises their marks where they rise, without running anything.
    async fn judge(&self, claims: Arc<[Claim]>, presented: FenceSet) -> Result<Reply, Problem> {
        self.judge_as(claims, presented, self.shared.unasked()).await
    }

    /// Puts a request before the database threads. Its answer arrives where this says.
    #[expect(clippy::too_many_arguments, reason = "each is one fact about one request")]
    pub(super) fn submit(
        &self,
        claims: Arc<[Claim]>,
        presented: FenceSet,
        believed: Believed,
        by: Option<String>,
        baton: Option<String>,
        key: Option<Box<Key>>,
        program: Program,
        run: Run,
        room: Room,
    ) -> Result<Arrives, Problem> {
        let shared = &self.shared;
        let changes = shared.judge_at_door(&claims)?;
        let stream = match baton {
            Some(baton) => shared.streams.take(&baton, by.as_deref())?,
            None => Stream::of(by),
        };
        let in_flight = shared.in_flight(presented);
        let (reply, arrives) = Waiting::here();
        let hint = program.hint();
        let work = Box::new(Work {
            claims,
            presented,
            believed,
            stream,
            key,
            replayed: false,
            program,
            hint,
            run,
            checkpoint: None,
            alone: false,
            verdict: Verdict::Admitted,
            previous: None,
            reply: Some(reply),
            queued: Instant::now(),
            room,
            in_flight,
        });
        route::start(shared, work, changes);
        Ok(arrives)
    }

    /// Reads from the gate's own tables, off the runtime's threads.
    async fn read_own<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Db) -> Result<T, super::raw::SqliteError> + Send + 'static,
    ) -> Result<T, Problem> {
        let admin = Arc::clone(&self.admin);
        let task = tokio::task::spawn_blocking(move || read(&admin.lock().unwrap_or_else(PoisonError::into_inner)));
        let result = task.await.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
        result.map_err(|error| Problem::new(Kind::Unavailable, error.message))
    }

    fn info(&self, id: usize) -> FenceInfo {
        let state = &self.shared.states[id];
        let mark = state.mark();
        FenceInfo {
            fence: self.shared.fences.name(id).clone(),
            highest: mark.as_ref().map(|dated| dated.mark.token),
            holder: mark.as_ref().and_then(|dated| dated.mark.holder.clone()),
            advanced_at_ms: mark.map(|dated| dated.advanced_at_ms),
            in_flight: state.in_flight.load(Ordering::Relaxed),
            quarantine: None,
            refused: state.refused.load(Ordering::Relaxed),
            writes: state.writes.load(Ordering::Relaxed),
        }
    }
}

fn served(body: Bytes, media_type: &'static str, verdict: Verdict, claims: Arc<[Claim]>) -> Served {
    let mut response = Response::new(Full::new(body).into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    Served { response, judged: (!claims.is_empty()).then_some(Judged { verdict, claims }) }
}

impl Resource for Sqlite {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Atomic
    }

    fn location(&self) -> String {
        self.shared.file.display().to_string()
    }

    fn fence(&self, name: &str) -> Option<FenceInfo> {
        self.shared.fences.id(name).map(|id| self.info(id))
    }

    fn fences(&self, look: &Look) -> Found {
        let names = self.shared.fences.names();
        let mut ids: Vec<usize> = (0..names.len()).filter(|id| look.fits(&names[*id])).collect();
        ids.sort_by_key(|id| names[*id].clone());
        let has_more = ids.len() > look.limit;
        let fences: Vec<FenceInfo> = ids.into_iter().take(look.limit).map(|id| self.info(id)).collect();
        Found { next: fences.last().filter(|_| has_more).map(|info| info.fence.to_string()), fences }
    }

    fn tally(&self) -> Tally {
        Tally { fences: self.shared.states.len() as u64, quarantined: 0 }
    }

    fn quarantined(&self, _limit: usize) -> Vec<FenceInfo> {
        Vec::new()
    }

    fn call(&self, call: Call) -> Answering<'_> {
        Answering::Later(Box::pin(async move {
            self.serve(call).await.map_err(|problem| issuer::explain(&self.shared.trust, problem))
        }))
    }

    fn keys_kept_for(&self) -> Duration {
        self.shared.limits.keys_kept_for()
    }

    fn claim(&self, claim: Claim) -> Boxed<'_, Result<Claimed, Problem>> {
        Box::pin(async move {
            let Some(id) = self.shared.fences.id(&claim.fence) else {
                return Err(Problem::new(Kind::NotFound, format!("there is no fence {}", claim.fence)));
            };
            let mut set = FenceSet::default();
            set.insert(id);
            let token = claim.token;
            let explain = |problem| issuer::explain(&self.shared.trust, problem);
            let Entered { claims, raised, .. } = self.enter(Arc::new([claim]), set).await.map_err(explain)?;
            if let Some(previous) = raised {
                return Ok(Claimed { verdict: Verdict::Advanced, previous });
            }
            let reply = self.judge(claims, set).await.map_err(explain)?;
            let previous = match reply.verdict {
                Verdict::Admitted => Some(token),
                _ => reply.previous,
            };
            Ok(Claimed { verdict: reply.verdict, previous })
        })
    }

    fn succeed(&self, claim: Claim, why: &'static str) -> Boxed<'_, Result<bool, Problem>> {
        Box::pin(self.raise(claim, why))
    }

    fn history(&self, fence: &FenceName, before: i64, limit: usize) -> Boxed<'_, Result<Vec<Event>, Problem>> {
        let fence = fence.clone();
        Box::pin(async move { self.read_own(move |db| store::history(db, &fence, before, limit)).await })
    }

    fn knocks(&self, fence: &FenceName) -> Boxed<'_, Result<Vec<Knock>, Problem>> {
        let name = fence.clone();
        Box::pin(async move {
            let shared = Arc::clone(&self.shared);
            let both = self.read_own(move |db| {
                let _steady = shared.refusals.steady();
                Ok((shared.refusals.unwritten(&name), store::refusals(db, &name, 1000)?))
            });
            let (unwritten, written) = both.await?;
            Ok(refusals::merge(unwritten, written))
        })
    }

    fn reset(&self, fence: &FenceName, to: Option<Token>, reason: String) -> Boxed<'_, Result<Option<Token>, Problem>> {
        let fence = fence.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let to = to.map(|token| Mark { token, holder: None });
            let task = Item::Task(Box::new(move |writer: &mut Writer| {
                // Where the operator's client has gone, the reset still stands, and the history tells of it.
                let _ = reply.send(writer.reset(&fence, to, &reason));
            }));
            self.shared.writer.push(task, true).map_err(|_| self.shared.writer.why_not("writes"))?;
            Ok(answer.await.map_err(|_| self.shared.writer.why_not("writes"))??.map(|mark| mark.token))
        })
    }

    fn release(&self, _fence: &FenceName, _reason: String) -> Boxed<'_, Result<bool, Problem>> {
        // A write here is in the transaction of its check, or nowhere: nothing is ever quarantined.
        Box::pin(async { Ok(false) })
    }

    fn trouble(&self) -> Option<String> {
        let since = self.shared.failing_since_ms.load(Ordering::Relaxed);
        let ago = || Duration::from_millis(u64::try_from(super::now_ms() - since).unwrap_or(0));
        (since != 0).then(|| format!("the last commit failed {} ago", humantime::format_duration(ago())))
    }

    fn gauges(&self) -> Vec<(&'static str, f64)> {
        let shared = &self.shared;
        let sum = |of: fn(&FenceState) -> &AtomicU64| {
            shared.states.iter().map(|state| of(state).load(Ordering::Relaxed)).sum::<u64>() as f64
        };
        vec![
            ("fencegate_sqlite_queue_writes", shared.writer.waiting() as f64),
            ("fencegate_sqlite_queue_reads", shared.readers.waiting() as f64),
            ("fencegate_sqlite_bytes", shared.budget.used() as f64),
            ("fencegate_sqlite_streams", shared.streams.len() as f64),
            ("fencegate_idempotency_keys", sum(|state| &state.keys)),
            ("fencegate_idempotency_bytes", sum(|state| &state.keys_bytes)),
            ("fencegate_sqlite_transactions", shared.transactions() as f64),
        ]
    }

    fn happened(&self) -> News {
        // Not left to the writer, which looks after them less often and may be busy.
        self.shared.refusals.tell(&self.shared.told);
        self.shared.told.take()
    }

    fn stop(&self) {
        // Readers first: they hand over to the writer what turns out to write.
        self.shared.readers.close();
        for thread in self.readers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
        self.shared.writer.close();
        if let Some(thread) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}
