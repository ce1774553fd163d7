//! A TCP proxy that does to a connection what networks do: it delays, cuts, swallows answers, and says nothing.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What the proxy does from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Everything passes.
    Pass,
    /// Every piece is held back for so long, either way.
    Delay(Duration),
    /// Connections are taken, and nothing passes.
    BlackHole,
    /// Connections end at once, those there are too.
    Refuse,
    /// Of what a client sends on a connection from now on, so many bytes pass; then it is cut.
    CutRequest(usize),
    /// Of what a server answers on a connection from now on, so many bytes pass; then it is cut.
    CutReply(usize),
    /// A request that holds these bytes passes, and the connection is cut as soon as the server begins to answer.
    /// So many times; then everything passes.
    LoseAnswerTo(Vec<u8>, usize),
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    rule: Mutex<Rule>,
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    /// Bytes that passed, from clients and from servers.
    passed: [AtomicUsize; 2],
    lost: AtomicUsize,
    closed: AtomicBool,
}

impl Proxy {
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            rule: Mutex::new(Rule::Pass),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            passed: Default::default(),
            lost: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let inner = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if inner.closed.load(Ordering::SeqCst) {
                    return;
                }
                inner.accepted.fetch_add(1, Ordering::SeqCst);
                inner.carry(client);
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, rule: Rule) {
        let refuse = rule == Rule::Refuse;
        *self.shared.rule.lock().unwrap() = rule;
        if refuse {
            self.cut_all();
        }
    }

    /// Ends every connection that there is.
    pub fn cut_all(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections there ever were.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many bytes ever passed, from clients and from servers.
    pub fn passed(&self) -> [usize; 2] {
        [0, 1].map(|way| self.shared.passed[way].load(Ordering::SeqCst))
    }

    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut_all();
        let _woken = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn rule(&self) -> Rule {
        self.rule.lock().unwrap().clone()
    }

    fn carry(self: &Arc<Self>, client: TcpStream) {
        if self.rule() == Rule::Refuse {
            return;
        }
        let Ok(server) = TcpStream::connect(self.target) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            self.open.lock().unwrap().push(stream.try_clone().unwrap());
        }
        let lose = Arc::new(AtomicBool::new(false));
        let (shared, mark) = (Arc::clone(self), Arc::clone(&lose));
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || shared.requests(from, to, &mark));
        let shared = Arc::clone(self);
        thread::spawn(move || shared.replies(server, client, &lose));
    }

    fn requests(&self, mut from: TcpStream, mut to: TcpStream, lose: &AtomicBool) {
        let (mut buffer, mut seen, mut passed) = ([0; 16 * 1024], Vec::new(), 0);
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut piece = &buffer[..length];
            let mut cut = false;
            match self.rule() {
                Rule::BlackHole => continue,
                Rule::Delay(time) => thread::sleep(time),
                Rule::CutRequest(bytes) => {
                    cut = passed + length >= bytes;
                    piece = &piece[..length.min(bytes.saturating_sub(passed))];
                    passed += length;
                }
                Rule::LoseAnswerTo(what, _) => {
                    seen.extend_from_slice(piece);
                    lose.store(seen.windows(what.len()).any(|part| part == what), Ordering::SeqCst);
                    // The bytes may come in two pieces.
                    seen.drain(..seen.len().saturating_sub(what.len()));
                }
                Rule::Pass | Rule::Refuse | Rule::CutReply(_) => {}
            }
            self.passed[0].fetch_add(piece.len(), Ordering::SeqCst);
            if to.write_all(piece).is_err() || cut {
                break;
            }
        }
        end(&from, &to);
    }

    fn replies(&self, mut from: TcpStream, mut to: TcpStream, lose: &AtomicBool) {
        let (mut buffer, mut passed) = ([0; 16 * 1024], 0);
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut piece = &buffer[..length];
            let mut cut = false;
            match self.rule() {
                Rule::BlackHole => continue,
                Rule::Delay(time) => thread::sleep(time),
                Rule::CutReply(bytes) => {
                    cut = passed + length >= bytes;
                    piece = &piece[..length.min(bytes.saturating_sub(passed))];
                    passed += length;
                }
                Rule::LoseAnswerTo(..) if lose.load(Ordering::SeqCst) => {
                    self.answer_lost();
                    break;
                }
                Rule::Pass | Rule::Refuse | Rule::CutRequest(_) | Rule::LoseAnswerTo(..) => {}
            }
            self.passed[1].fetch_add(piece.len(), Ordering::SeqCst);
            if to.write_all(piece).is_err() || cut {
                break;
            }
        }
        end(&from, &to);
    }

    fn answer_lost(&self) {
        self.lost.fetch_add(1, Ordering::SeqCst);
        let mut rule = self.rule.lock().unwrap();
        if let Rule::LoseAnswerTo(_, times) = &mut *rule {
            *times -= 1;
            if *times == 0 {
                *rule = Rule::Pass;
            }
        }
    }
}

fn end(one: &TcpStream, other: &TcpStream) {
    for stream in [one, other] {
        let _gone = stream.shutdown(Shutdown::Both);
    }
}

/// Cuts behind every byte, where it is set; else behind a sample of them.
const EVERY_BYTE: &str = "KEYMOOT_TEST_EVERY_BYTE";

/// Behind which bytes of an exchange it is cut: so many at either end, and every so many between.
#[derive(Clone, Copy)]
pub struct Sample {
    pub ends: usize,
    pub step: usize,
}

/// Of exchanges that are soon done.
pub const FINE: Sample = Sample { ends: 64, step: 7 };
/// Of those that change what has to be put right again each time.
pub const COARSE: Sample = Sample { ends: 32, step: 23 };
/// Of what takes seconds.
pub const RARE: Sample = Sample { ends: 2, step: 197 };

impl Sample {
    pub fn of(self, length: usize) -> BTreeSet<usize> {
        let Self { ends, step } =
            if std::env::var_os(EVERY_BYTE).is_some() { Self { ends: 0, step: 1 } } else { self };
        // Signatures differ in length by a few bytes, so the end may be a little behind what was measured.
        let last = (length.saturating_sub(ends)..=length + ends.min(8)).filter(|at| *at > 0);
        (1..=ends.min(length)).chain((1..=length).step_by(step)).chain(last).collect()
    }
}
