//! The state machine against a plain model of it, and the cases worth reading one by one.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> FenceName {
    text.parse().unwrap()
}

fn id(number: usize) -> CandidateId {
    CandidateId(u128::try_from(number).unwrap().to_be_bytes())
}

fn token(number: u64) -> Token {
    Token::new(number).unwrap()
}

/// The machine, the marks it sees, and what it has stored.
struct Rig {
    machine: Elections,
    limits: Limits,
    marks: Arc<Mutex<HashMap<FenceName, Token>>>,
    stored: Stored,
    now: Duration,
}

impl Rig {
    fn new(limits: Limits) -> Rig {
        let marks = Arc::new(Mutex::new(HashMap::new()));
        let machine = Rig::start(&limits, &marks, Stored::default(), Duration::ZERO);
        Rig { machine, limits, marks, stored: Stored::default(), now: Duration::ZERO }
    }

    fn start(
        limits: &Limits,
        marks: &Arc<Mutex<HashMap<FenceName, Token>>>,
        stored: Stored,
        now: Duration,
    ) -> Elections {
        let marks = Arc::clone(marks);
        let floor: Floor = Arc::new(move |fence| marks.lock().unwrap().get(fence).copied());
        Elections::restore(limits.clone(), floor, stored, now).unwrap()
    }

    fn set_mark(&self, fence: &str, mark: Token) {
        self.marks.lock().unwrap().insert(name(fence), mark);
    }

    /// Applies the changes to `stored` as the store does.
    fn save(&mut self) {
        for change in self.machine.changes().to_vec() {
            match change {
                Change::Entered(entrant) => {
                    let rows = &mut self.stored.candidates;
                    rows.retain(|(other, _)| other.arrival != entrant.arrival);
                    rows.push((entrant, None));
                    rows.sort_by_key(|(other, _)| other.arrival);
                }
                Change::Elected { election, candidate, token } => {
                    self.stored.last_tokens.retain(|(other, _)| *other != election);
                    self.stored.last_tokens.push((election, token));
                    let row = self.stored.candidates.iter_mut().find(|(entrant, _)| entrant.candidate == candidate);
                    row.expect("only who has entered is elected").1 = Some(token);
                }
                Change::Left { candidate, .. } => {
                    self.stored.candidates.retain(|(entrant, _)| entrant.candidate != candidate);
                }
            }
        }
        self.machine.stored();
    }

    fn restart(&mut self) {
        self.save();
        // Another process, another start of the monotonic clock.
        self.now = Duration::ZERO;
        self.machine = Rig::start(&self.limits, &self.marks, self.stored.clone(), self.now);
    }

    fn enter(&mut self, election: &str, number: usize) -> Result<Standing, CoordinatorError> {
        self.machine.enter(self.now, &name(election), id(number), None, 10 * SECOND)
    }

    fn renew(&mut self, election: &str, number: usize) -> Result<Standing, CoordinatorError> {
        self.machine.renew(self.now, &name(election), id(number))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.expire(self.now);
    }
}

fn leading(standing: &Result<Standing, CoordinatorError>) -> Option<u64> {
    match standing.as_ref().unwrap().place {
        Place::Leading { token } => Some(token.get()),
        Place::Waiting { .. } => None,
    }
}

fn position(standing: &Result<Standing, CoordinatorError>) -> Option<usize> {
    match standing.as_ref().unwrap().place {
        Place::Leading { .. } => None,
        Place::Waiting { position, .. } => Some(position),
    }
}

#[test]
fn the_first_leads_and_the_others_wait_in_order() {
    let mut rig = Rig::new(Limits::default());
    assert_eq!(leading(&rig.enter("a", 1)), Some(1));
    assert_eq!(position(&rig.enter("a", 2)), Some(1));
    assert_eq!(position(&rig.enter("a", 3)), Some(2));
    assert_eq!(leading(&rig.enter("b", 4)), Some(1), "elections don't touch each other");
    rig.machine.resign(rig.now, &name("a"), id(1)).unwrap();
    assert_eq!(leading(&rig.renew("a", 2)), Some(2));
    assert_eq!(position(&rig.renew("a", 3)), Some(1));
    assert_eq!(rig.renew("a", 1), Err(CoordinatorError::Lost));
    assert_eq!(rig.renew("b", 2), Err(CoordinatorError::Lost), "an id is good in its own election only");
}

#[test]
fn a_lease_ends_at_its_ttl_and_not_before() {
    let mut rig = Rig::new(Limits::default());
    rig.enter("a", 1).unwrap();
    rig.pass(10 * SECOND - Duration::from_nanos(1));
    assert_eq!(leading(&rig.renew("a", 1)), Some(1));
    rig.pass(10 * SECOND);
    assert_eq!(rig.renew("a", 1), Err(CoordinatorError::Lost));
    assert_eq!(rig.machine.status(rig.now, &name("a")).last_token, Some(token(1)));
    assert_eq!(leading(&rig.enter("a", 2)), Some(2), "a new term, though nobody else has led");
    assert_eq!(rig.machine.next_deadline(), Some(rig.now + 10 * SECOND));
}

#[test]
fn who_lapses_in_the_queue_is_passed_over() {
    let mut rig = Rig::new(Limits::default());
    for number in 1..=4 {
        rig.enter("a", number).unwrap();
    }
    rig.machine.attend(id(4));
    rig.pass(6 * SECOND);
    rig.renew("a", 1).unwrap();
    rig.renew("a", 3).unwrap();
    rig.pass(5 * SECOND);
    assert_eq!(rig.renew("a", 2), Err(CoordinatorError::Lost));
    // The leader's lease and the next one's run out at the same moment: it is the attended one's turn.
    rig.pass(5 * SECOND);
    assert_eq!(leading(&rig.renew("a", 4)), Some(2));
    rig.pass(9 * SECOND);
    rig.machine.unattend(rig.now, id(4));
    rig.pass(SECOND);
    assert_eq!(rig.renew("a", 4), Err(CoordinatorError::Lost), "attendance doesn't keep a leader's lease alive");
}

#[test]
fn tokens_are_above_the_mark_and_end_at_the_highest() {
    let mut rig = Rig::new(Limits::default());
    rig.set_mark("a", token(41));
    assert_eq!(leading(&rig.enter("a", 1)), Some(42));
    rig.enter("a", 2).unwrap();
    rig.set_mark("a", Token::MAX);
    let exhausted = Err(CoordinatorError::TokensExhausted(name("a")));
    assert_eq!(rig.enter("a", 3), exhausted);
    assert_eq!(rig.renew("a", 3), Err(CoordinatorError::Lost), "who was refused is not in the queue");
    rig.machine.resign(rig.now, &name("a"), id(1)).unwrap();
    assert_eq!(rig.renew("a", 2), exhausted);
    assert_eq!(rig.machine.status(rig.now, &name("a")).leader, None);
    rig.set_mark("a", token(50));
    assert_eq!(leading(&rig.renew("a", 2)), Some(51), "an operator has reset the mark");
}

#[test]
fn what_is_too_much_is_refused_and_leaves_no_trace() {
    let mut rig = Rig::new(Limits { elections_max: 2, waiting_max: 1, ..Limits::default() });
    rig.enter("a", 1).unwrap();
    rig.enter("a", 2).unwrap();
    assert!(matches!(rig.enter("a", 3), Err(CoordinatorError::Full { max: 1, .. })));
    rig.enter("b", 4).unwrap();
    assert!(matches!(rig.enter("c", 5), Err(CoordinatorError::Full { max: 2, .. })));
    for ttl in [Duration::ZERO, SECOND - Duration::from_millis(1), 3600 * SECOND + Duration::from_millis(1)] {
        let refused = rig.machine.enter(rig.now, &name("b"), id(6), None, ttl);
        assert!(matches!(refused, Err(CoordinatorError::Ttl { .. })), "{ttl:?}");
    }
    rig.save();
    assert_eq!(rig.stored.candidates.len(), 3);
}

#[test]
fn stored_contradictions_are_found() {
    let entrant =
        |number: usize| Entrant { election: name("a"), candidate: id(number), arrival: 7, holder: None, ttl: SECOND };
    let last_tokens = vec![(name("a"), token(5))];
    let start = |candidates| {
        let stored = Stored { last_tokens: last_tokens.clone(), candidates, beneath: None };
        Elections::restore(Limits::default(), Arc::new(|_| None), stored, Duration::ZERO)
    };
    assert!(start(vec![(entrant(1), Some(token(5)))]).is_ok());
    assert!(start(vec![(entrant(1), Some(token(6)))]).is_err());
    assert!(start(vec![(entrant(1), Some(token(5))), (entrant(2), Some(token(4)))]).is_err());
}

/// One step of a random run. Candidates are picked by index among all that ever were.
#[derive(Debug, Clone)]
enum Step {
    Enter { election: usize, ttl_s: u64 },
    Renew(usize),
    Resign(usize),
    Attend(usize),
    Unattend(usize),
    Pass { ms: u64 },
    Mark { election: usize, mark: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let mark = prop_oneof![4 => 1..30_u64, 1 => Just(i64::MAX as u64)];
    prop_oneof![
        6 => (0..2_usize, 1..5_u64).prop_map(|(election, ttl_s)| Step::Enter { election, ttl_s }),
        6 => (0..40_usize).prop_map(Step::Renew),
        2 => (0..40_usize).prop_map(Step::Resign),
        1 => (0..40_usize).prop_map(Step::Attend),
        1 => (0..40_usize).prop_map(Step::Unattend),
        5 => (0..3_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..2_usize, mark).prop_map(|(election, mark)| Step::Mark { election, mark }),
        1 => Just(Step::Restart),
    ]
}

/// A candidate of the model. The model keeps them all in one list in order of arrival, and finds by looking.
#[derive(Debug, Clone)]
struct Seen {
    number: usize,
    election: usize,
    ttl: Duration,
    deadline: Duration,
    attendants: usize,
    token: Option<u64>,
}

#[derive(Debug, Default)]
struct Model {
    now: Duration,
    present: Vec<Seen>,
    last: [u64; 2],
    marks: [u64; 2],
}

impl Model {
    fn next(&self, election: usize) -> Option<u64> {
        let highest = self.last[election].max(self.marks[election]);
        (highest < i64::MAX as u64).then_some(highest + 1)
    }

    fn elect(&mut self, election: usize) {
        let (now, next) = (self.now, self.next(election));
        let here = |seen: &&mut Seen| seen.election == election;
        if self.present.iter_mut().filter(here).any(|seen| seen.token.is_some()) {
            return;
        }
        if let (Some(first), Some(token)) = (self.present.iter_mut().find(here), next) {
            first.token = Some(token);
            first.deadline = now + first.ttl;
            self.last[election] = token;
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        let now = self.now;
        let waits_attended = |seen: &Seen| seen.token.is_none() && seen.attendants > 0;
        let due: Vec<Seen> =
            self.present.iter().filter(|seen| seen.deadline <= now && !waits_attended(seen)).cloned().collect();
        self.present.retain(|seen| !due.iter().any(|other| other.number == seen.number));
        for seen in due.iter().filter(|seen| seen.token.is_some()) {
            self.elect(seen.election);
        }
    }

    fn find(&mut self, number: usize) -> Option<&mut Seen> {
        self.present.iter_mut().find(|seen| seen.number == number)
    }
}

const NAMES: [&str; 2] = ["a", "b"];

/// Takes one step in both, and compares what they answer.
fn take(rig: &mut Rig, model: &mut Model, entered: &mut Vec<usize>, step: &Step) {
    let now = model.now;
    match *step {
        Step::Enter { election, ttl_s } => {
            let (number, ttl) = (entered.len(), Duration::from_secs(ttl_s));
            entered.push(election);
            let outcome = rig.machine.enter(rig.now, &name(NAMES[election]), id(number), None, ttl);
            assert_eq!(outcome.is_ok(), model.next(election).is_some());
            if outcome.is_ok() {
                model.present.push(Seen { number, election, ttl, deadline: now + ttl, attendants: 0, token: None });
                model.elect(election);
            }
        }
        Step::Renew(number) => {
            let Some(&election) = entered.get(number) else { return };
            let outcome = rig.renew(NAMES[election], number);
            let Some(seen) = model.find(number) else { return assert_eq!(outcome, Err(CoordinatorError::Lost)) };
            seen.deadline = now + seen.ttl;
            model.elect(election);
            let token = model.find(number).and_then(|seen| seen.token);
            match outcome {
                Ok(Standing { place: Place::Leading { token: told }, .. }) => assert_eq!(Some(told.get()), token),
                Ok(_) => assert_eq!(token, None),
                Err(error) => assert_eq!(error, CoordinatorError::TokensExhausted(name(NAMES[election]))),
            }
        }
        Step::Resign(number) => {
            let Some(&election) = entered.get(number) else { return };
            let outcome = rig.machine.resign(rig.now, &name(NAMES[election]), id(number));
            assert_eq!(outcome.is_ok(), model.find(number).is_some());
            if outcome.is_ok() {
                model.present.retain(|seen| seen.number != number);
                model.elect(election);
            }
        }
        Step::Attend(number) => {
            rig.machine.attend(id(number));
            if let Some(seen) = model.find(number) {
                seen.attendants += 1;
                seen.deadline = now + seen.ttl;
            }
        }
        Step::Unattend(number) => {
            // As the worker: only who attends stops attending.
            let Some(seen) = model.find(number).filter(|seen| seen.attendants > 0) else { return };
            seen.attendants -= 1;
            if seen.token.is_none() {
                seen.deadline = now + seen.ttl;
            }
            rig.machine.unattend(rig.now, id(number));
        }
        Step::Pass { ms } => {
            rig.pass(Duration::from_millis(ms));
            model.pass(ms);
        }
        Step::Mark { election, mark } => {
            rig.set_mark(NAMES[election], token(mark));
            model.marks[election] = mark;
        }
        Step::Restart => {
            rig.restart();
            model.now = Duration::ZERO;
            for seen in &mut model.present {
                (seen.deadline, seen.attendants) = (seen.ttl, 0);
            }
            (0..NAMES.len()).for_each(|election| model.elect(election));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// The machine does as the model does; and, told apart from the model: tokens strictly rise in each election, each above
    /// the mark at that moment, through restarts; one leader at most; in order of arrival.
    #[test]
    fn the_machine_does_as_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut rig = Rig::new(Limits::default());
        let mut model = Model::default();
        let mut entered = Vec::new();
        let mut last: [Option<Token>; 2] = [None, None];
        let mut last_led = [None, None];
        for step in &steps {
            take(&mut rig, &mut model, &mut entered, step);
            for change in rig.machine.changes() {
                if let Change::Elected { election, candidate, token } = change {
                    let at = usize::from(**election == *NAMES[1]);
                    prop_assert!(Some(*token) > last[at], "tokens rise: {last:?} {token}");
                    prop_assert!(*token > Token::new(model.marks[at]).unwrap_or(Token::MIN) || model.marks[at] == 0);
                    prop_assert!(Some(*candidate) > last_led[at], "in order of arrival");
                    (last[at], last_led[at]) = (Some(*token), Some(*candidate));
                }
            }
            rig.save();
            for (election, text) in NAMES.iter().enumerate() {
                let status = rig.machine.status(rig.now, &name(text));
                let here: Vec<&Seen> = model.present.iter().filter(|seen| seen.election == election).collect();
                let leaders: Vec<u64> = here.iter().filter_map(|seen| seen.token).collect();
                prop_assert!(leaders.len() <= 1);
                let leader = status.leader.map(|(leader, _)| leader.token.get());
                prop_assert_eq!(leader, leaders.first().copied());
                prop_assert_eq!(status.waiting, here.len() - leaders.len());
                prop_assert_eq!(status.last_token.map_or(0, Token::get), model.last[election]);
                let led = rig.stored.candidates.iter().filter(|(row, token)| *row.election == **text && token.is_some());
                prop_assert_eq!(led.count(), leaders.len());
            }
        }
    }
}
