//! A real gate process, and a small HTTP client that shows every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gate::LONG;
use crate::upstream::pass_time;

/// Waits until the condition holds. It looks a thousand times a second: the processors are for those it waits for.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LONG, "not in time: {what}");
        pass_time(1);
    }
}

/// Whether this process ignores a signal, as one does that a script or `nohup` has started in the background.
pub fn is_ignored(signal: rustix::process::Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("it can be read");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("it is told");
    u64::from_str_radix(ignored, 16).expect("a number") >> (signal.as_raw() - 1) & 1 == 1
}

/// All processes that have this variable in the environment that they were started with: `NAME=VALUE`.
pub fn with_variable(variable: &str) -> Vec<rustix::process::Pid> {
    let pids = std::fs::read_dir("/proc").expect("it can be listed").flatten();
    let pids = pids.filter_map(|entry| rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let is_one = |pid: &rustix::process::Pid| {
        let environ = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|own| own == variable.as_bytes())
    };
    pids.filter(is_one).collect()
}

/// A running gate. Killed when dropped.
pub struct Gate {
    child: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
}

/// What a change is asked for with on the admin listener.
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fencegate");

impl Gate {
    /// `fencegate serve` with these arguments, on free ports, with its data in `dir`.
    pub fn start(dir: &Path, args: &[&str]) -> Gate {
        Gate::try_start(dir, args).unwrap_or_else(|error| panic!("the gate did not start: {error}"))
    }

    /// A gate before `app.db` in `dir`, with limits whose times no test runs into.
    pub fn patient(dir: &Path) -> Gate {
        let config = dir.join("gate.toml");
        let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
        let times = ["drain", "body_time", "statement_time", "transaction_time", "stream_idle", "lock_wait"];
        let limits: String = times.iter().map(|time| format!("{time} = \"10m\"\n")).collect();
        std::fs::write(&config, format!("{resource}[limits]\n{limits}")).expect("written");
        Gate::start(dir, &["--config", config.to_str().expect("UTF-8")])
    }

    /// As [`Gate::start`], with these variables in its environment.
    pub fn start_in(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Gate {
        Gate::try_start_in(dir, args, environment).unwrap_or_else(|error| panic!("the gate did not start: {error}"))
    }

    /// As [`Gate::start`]; what it printed to standard error where it did not start.
    pub fn try_start(dir: &Path, args: &[&str]) -> Result<Gate, String> {
        Gate::try_start_with(dir, args, &[], &|_| {})
    }

    fn try_start_in(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Result<Gate, String> {
        Gate::try_start_with(dir, args, environment, &|_| {})
    }

    /// As [`Gate::try_start`], with these variables; `spawned` is told the process number before the gate is there.
    pub fn try_start_with(
        dir: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
        spawned: &dyn Fn(u32),
    ) -> Result<Gate, String> {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(args).envs(variables.iter().copied());
        Gate::run_told(command, dir, spawned)
    }

    /// The same, of a gate that may have so many files open.
    pub fn try_start_with_files(dir: &Path, args: &[&str], files: u32) -> Result<Gate, String> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), PROGRAM, "serve"]).args(args);
        Gate::run(shell, dir)
    }

    /// Runs this command, which is a gate's but for where it listens and has its data.
    pub fn run(command: Command, dir: &Path) -> Result<Gate, String> {
        Gate::run_told(command, dir, &|_| {})
    }

    fn run_told(mut command: Command, dir: &Path, spawned: &dyn Fn(u32)) -> Result<Gate, String> {
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(dir.join("data"))
            .env("FENCEGATE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        spawned(child.id());
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout can be read");
        let address = |key: &str| {
            let rest = line.split_once(key)?.1;
            rest.split_whitespace().next()?.parse().ok()
        };
        let (Some(data), Some(admin)) = (address("data="), address("admin=")) else {
            let mut errors = String::new();
            child.stderr.take().expect("stderr is piped").read_to_string(&mut errors).expect("stderr can be read");
            child.wait().expect("it can be waited for");
            return Err(errors);
        };
        let mut stderr = child.stderr.take().expect("stderr is piped");
        // What it logs is shown where a test fails, and never fills the pipe.
        std::thread::spawn(move || {
            let mut log = String::new();
            let _ = stderr.read_to_string(&mut log);
            eprint!("{log}");
        });
        Ok(Gate { child, data, admin })
    }

    /// The process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much time of processors it has used.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process is there");
        // After the name, which ends with the last parenthesis: the state and ten more, then user and system time in ticks, of
        // which there are a hundred in a second on every Linux.
        let rest = stat.rsplit(')').next().expect("there is always a last part");
        let ticks = rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process can be signalled");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM; the exit status.
    pub fn terminate(self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits for its end; the exit status.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("it can be waited for").code()
    }

    /// A connection to the data listener.
    pub fn client(&self) -> Client {
        Client::connect(self.data).expect("the gate accepts connections")
    }

    /// A connection to the admin listener.
    pub fn admin(&self) -> Client {
        Client::connect(self.admin).expect("the gate accepts connections")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One answer.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.body[..self.body.len().min(2000)];
        write!(f, "{}{}", self.head, String::from_utf8_lossy(start))
    }
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The `code` of a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub fn connect(addr: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        // A test that waits longer than this for one answer has found a hang. Longer than what a test has the gate wait for.
        stream.set_read_timeout(Some(2 * LONG))?;
        Ok(Client::over(stream))
    }

    /// Over a connection that is there already.
    pub fn over(stream: TcpStream) -> Client {
        Client { stream: BufReader::new(stream) }
    }

    /// How long it waits for an answer from now on.
    pub fn give_up_after(&self, time: Duration) {
        self.stream.get_ref().set_read_timeout(Some(time)).expect("an option of sockets");
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends one request and reads its answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        self.send(&message)?;
        self.read_answer_to(method)
    }

    /// Reads one answer to anything but a HEAD.
    pub fn read_answer(&mut self) -> std::io::Result<Answer> {
        self.read_answer_to("GET")
    }

    /// Reads one answer to this method.
    pub fn read_answer_to(&mut self, method: &str) -> std::io::Result<Answer> {
        let mut answer = self.read_head()?;
        if method == "HEAD" || matches!(answer.status, 100..200 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            self.read_chunks(&mut answer.body)?;
        } else {
            let len = answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
            answer.body = vec![0; len];
            self.stream.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads the head of an answer, and leaves the body there.
    pub fn read_head(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while self.read_line(&mut head)? != 2 {}
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Answer { status, head, body: Vec::new() })
    }

    /// Reads so many bytes of a body.
    pub fn read_bytes(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_line(&mut self, text: &mut String) -> std::io::Result<usize> {
        match self.stream.read_line(text)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            len => Ok(len),
        }
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            self.read_line(&mut line)?;
            let len = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::InvalidData)?;
            if len == 0 {
                // Trailers, and the empty line after them.
                while self.read_line(&mut line)? != 2 {}
                return Ok(());
            }
            body.extend(self.read_bytes(len)?);
            self.read_line(&mut line)?;
        }
    }

    /// Reads until this text has come; all that was read.
    pub fn read_until(&mut self, text: &str) -> String {
        let mut read = String::new();
        while !read.contains(text) {
            assert!(self.stream.read_line(&mut read).expect("more comes") > 0, "it ended after {read:?}");
        }
        read
    }

    /// Reads until the other side closes, in whatever way.
    pub fn read_until_end(&mut self) -> String {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it stays open after {rest:?}");
        }
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Whether something has come.
    pub fn is_answered(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("a socket can be");
        let answered = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).expect("a socket can be");
        answered
    }

    /// Another handle of the connection.
    pub fn writer(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("a socket can be shared")
    }

    /// Sends nothing more.
    pub fn half_close(&self) {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write).expect("it is open");
    }

    /// Sends nothing more, and reads until the other side closes.
    pub fn finish(mut self) {
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the gate neither answers nor closes")
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// A GET.
    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], b"").expect("the gate answers")
    }

    /// A Hrana pipeline of these requests; `token` as in `Fencing-Token`, or none.
    pub fn pipeline(&mut self, token: Option<&str>, baton: Option<&str>, requests: &Value) -> std::io::Result<Answer> {
        let body = json!({ "baton": baton, "requests": requests }).to_string();
        let headers: Vec<(&str, &str)> = token.iter().map(|token| ("fencing-token", *token)).collect();
        self.request("POST", "/v3/pipeline", &headers, body.as_bytes())
    }

    /// Statements, each by itself, on a stream that is closed afterwards.
    pub fn sql(&mut self, token: Option<&str>, statements: &[&str]) -> Answer {
        self.try_sql(token, statements).expect("the gate answers")
    }

    /// The same, where the gate may be gone.
    pub fn try_sql(&mut self, token: Option<&str>, statements: &[&str]) -> std::io::Result<Answer> {
        let mut requests: Vec<Value> =
            statements.iter().map(|sql| json!({ "type": "execute", "stmt": { "sql": sql } })).collect();
        requests.push(json!({ "type": "close" }));
        self.pipeline(token, None, &requests.into())
    }
}

/// A copy of a directory.
pub fn copy_dir(from: &Path) -> tempfile::TempDir {
    fn all(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).expect("it can be listed").flatten() {
            let to = to.join(entry.file_name());
            if entry.file_type().expect("it has one").is_dir() {
                std::fs::create_dir(&to).expect("made");
                all(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).expect("copied");
            }
        }
    }
    let to = tempfile::tempdir().expect("a directory");
    all(from, to.path());
    to
}
