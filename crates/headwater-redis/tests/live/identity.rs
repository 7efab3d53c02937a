//! Which log it is: every way in which a server can lose or repeat part of the log, on every
//! version of Redis and Valkey, called both ways. No position may be assigned twice, and what is
//! lost must be announced by a new epoch. Look here before you change `log.lua`.

use std::collections::HashMap;
use std::fs;

use headwater_test_support::{RedisServer, RedisVersion, wait_for};
use redis::{Cmd, RedisResult};

use crate::function::{LIBRARY, PREFIX, Way};

/// Runs a test for each version and way.
macro_rules! on_every_version {
    ($($module:ident: $version:ident $way:ident,)*) => {
        $(mod $module {
            use super::{RedisVersion, Way};

            #[test]
            fn no_position_is_assigned_twice_and_no_loss_is_silent() {
                super::check_all(RedisVersion::$version, Way::$way);
            }
        })*
    };
}

on_every_version! {
    redis_6_script: Redis6 Script,
    system_function: System Function,
    system_script: System Script,
    redis_8_function: Redis8 Function,
    redis_8_script: Redis8 Script,
    valkey_8_function: Valkey8 Function,
    valkey_8_script: Valkey8 Script,
    valkey_9_function: Valkey9 Function,
    valkey_9_script: Valkey9 Script,
}

/// What must become of the epoch.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Epoch {
    /// Nothing is lost: clients notice nothing.
    Same,
    New,
    /// A script does not know who wrote last, so whether the server was ever promoted decides.
    Any,
}

type Fault = fn(&mut World);

const FAULTS: &[(&str, Fault, Epoch)] = &[
    ("nothing", |_| (), Epoch::Same),
    ("a restart with all data", World::restart, Epoch::Same),
    ("a restart from an older copy", World::restart_from_an_older_copy, Epoch::New),
    ("two restarts from one copy", World::restart_twice_from_one_copy, Epoch::New),
    ("an older copy on a new server", World::move_an_older_copy, Epoch::New),
    ("an older copy under a running server", World::load_an_older_copy, Epoch::New),
    ("a promotion that lacks events", World::promote_behind, Epoch::New),
    ("a promotion that lacks nothing", World::promote, Epoch::New),
    ("a failback that lacks events", World::fail_back, Epoch::New),
    ("two failovers without an event", World::fail_over_twice, Epoch::New),
    ("the first replica connects", World::attach_a_replica, Epoch::Same),
    ("a restart of a primary with a replica", World::restart_with_a_replica, Epoch::Same),
    ("FLUSHALL", |world| world.run(&["FLUSHALL"]), Epoch::New),
    ("FLUSHALL and a reload", World::flush_and_reload, Epoch::New),
    ("a reload", |world| world.run(&["DEBUG", "RELOAD"]), Epoch::Same),
    ("the library is gone", World::remove_the_library, Epoch::Same),
    ("seq is evicted", |world| world.evict("seq"), Epoch::New),
    ("epoch is evicted", |world| world.evict("epoch"), Epoch::New),
    ("writer is evicted", |world| world.evict("writer"), Epoch::Any),
    ("jumps is evicted", |world| world.evict("jumps"), Epoch::Same),
    ("horizon is evicted", |world| world.evict("horizon"), Epoch::Same),
    ("last:a is evicted", |world| world.evict("last:a"), Epoch::Same),
    ("size:a is evicted", |world| world.evict("size:a"), Epoch::Same),
    ("seq is malformed", |world| world.set("seq", "x"), Epoch::New),
    ("epoch is malformed", |world| world.set("epoch", "-"), Epoch::New),
];

/// Each fault twice: nodes reconnect first, or a publisher that knows nothing.
fn check_all(version: RedisVersion, way: Way) {
    let mut world = World::start(version, way);
    for (name, fault, expected) in FAULTS {
        for publisher_first in [false, true] {
            let older_data = *name == "an older copy under a running server";
            if older_data && publisher_first && way == Way::Script {
                // A script has no state to notice this by: the node's next probe does.
                continue;
            }
            world.reset();
            world.publish();
            world.publish();
            fault(&mut world);
            let what = format!("{version:?}, {way:?}: {name}, publisher first: {publisher_first}");
            world.check(&what, publisher_first, *expected);
        }
    }
}

/// Without `+info` the function does not know where it runs: some losses are silent then.
#[test]
fn no_position_is_assigned_twice_by_a_user_without_info() {
    for way in [Way::Function, Way::Script] {
        let mut world = World::start(RedisVersion::System, way);
        world.has_info = false;
        for (name, fault, _) in FAULTS {
            if *name != "an older copy under a running server" {
                world.reset();
                world.publish();
                fault(&mut world);
                eprintln!("{way:?}: {name}");
                world.publish();
                world.publish();
            }
        }
    }
}

struct World {
    version: RedisVersion,
    way: Way,
    has_info: bool,
    /// The server that clients use, and if a fault needs one, another.
    server: RedisServer,
    other: Option<RedisServer>,
    /// The data of each event, by its position.
    given: HashMap<String, String>,
    /// The newest position that a node has heard of.
    heard: (String, u64),
}

impl World {
    fn start(version: RedisVersion, way: Way) -> Self {
        let server = start(version);
        let (given, heard) = (HashMap::new(), (String::new(), 0));
        Self { version, way, has_info: true, server, other: None, given, heard }
    }

    /// A new log, perhaps on a server with a past.
    fn reset(&mut self) {
        self.other = None;
        self.run(&["FLUSHALL"]);
        self.given.clear();
    }

    fn run(&self, words: &[&str]) {
        self.server.run::<()>(words);
    }

    fn save(&self) {
        let mut connection = self.server.connection();
        // The fork that serves a new replica may still run.
        wait_for("SAVE", || redis::cmd("SAVE").exec(&mut connection).is_ok());
    }

    fn evict(&self, key: &str) {
        self.run(&["DEL", &format!("{PREFIX}:{key}")]);
    }

    fn set(&self, key: &str, value: &str) {
        self.run(&["SET", &format!("{PREFIX}:{key}"), value]);
    }

    /// Calls one of the functions; loads the library if it is missing, as a node does.
    fn call(&self, function: &str, words: &[&str]) -> String {
        let call = || -> RedisResult<String> {
            let mut command = Cmd::new();
            if self.way == Way::Function {
                command.arg("FCALL").arg(format!("headwater_{function}"));
            } else {
                let body = LIBRARY.split_once('\n').unwrap().1;
                let last = format!("return {function}(KEYS, ARGV)");
                command.arg("EVAL").arg(body.replace("return publish(KEYS, ARGV)", &last));
            }
            let mut connection = self.server.connection();
            if !self.has_info {
                self.run(&["ACL", "SETUSER", "u", "on", "nopass", "~*", "&*", "+@all", "-info"]);
                redis::cmd("AUTH").arg("u").arg("").exec(&mut connection)?;
            }
            command.arg(1).arg(PREFIX).arg(words).query(&mut connection)
        };
        match call() {
            Err(error) if error.to_string().contains("Function not found") => {
                self.run(&["FUNCTION", "LOAD", LIBRARY]);
                call().unwrap()
            }
            answer => answer.unwrap(),
        }
    }

    /// Publishes an event that nodes hear of.
    fn publish(&mut self) {
        let id = self.publish_unheard();
        let (epoch, offset) = id.split_once('-').unwrap();
        self.heard = (epoch.to_owned(), offset.parse().unwrap());
    }

    fn publish_unheard(&mut self) -> String {
        let data = format!("event {}", self.given.len());
        let channel = if self.given.len() % 3 == 2 { "b" } else { "a" };
        let id = self.call("publish", &[channel, &data]);
        let earlier = self.given.insert(id.clone(), data);
        assert_eq!(earlier, None, "{:?}, {:?}: {id} was assigned twice", self.version, self.way);
        id
    }

    fn check(&mut self, what: &str, publisher_first: bool, expected: Epoch) {
        if publisher_first {
            self.publish_unheard();
        }
        let (epoch, offset) = self.heard.clone();
        self.call("begin", &[&epoch, &offset.to_string()]);
        self.publish();
        let now = self.heard.0.clone();
        let found = if now == epoch { Epoch::Same } else { Epoch::New };
        assert!(expected == Epoch::Any || found == expected, "{what}: {found:?}");
        self.call("begin", &[&now, &self.heard.1.to_string()]);
        let last = self.publish_unheard();
        assert_eq!(last, format!("{now}-{}", self.heard.1 + 1), "{what}: it continues");

        let mut kept = HashMap::new();
        for channel in ["a", "b"] {
            let log = format!("{PREFIX}:log:{channel}");
            let entries: Vec<(String, HashMap<String, String>)> =
                self.server.run(&["XRANGE", &log, "-", "+"]);
            let offset = |id: &str| id.strip_suffix("-0").unwrap().to_owned();
            kept.extend(entries.iter().map(|(id, fields)| (offset(id), fields["d"].clone())));
        }
        for (id, data) in &self.given {
            let (epoch, offset) = id.split_once('-').unwrap();
            if epoch == now {
                assert_eq!(kept.get(offset), Some(data), "{what}: {id} is lost in silence");
            }
        }
    }

    // === faults ===

    fn restart(&mut self) {
        self.save();
        self.server.kill();
        self.server.restart();
    }

    fn restart_from_an_older_copy(&mut self) {
        self.save();
        self.publish();
        self.publish();
        self.server.kill();
        self.server.restart();
    }

    fn restart_twice_from_one_copy(&mut self) {
        self.restart();
        for _ in 0..2 {
            self.publish();
            self.publish();
            self.server.kill();
            self.server.restart();
        }
    }

    fn move_an_older_copy(&mut self) {
        self.save();
        let copy = fs::read(self.server.directory().join("dump.rdb")).unwrap();
        self.publish();
        let mut server = start(self.version);
        server.kill();
        fs::write(server.directory().join("dump.rdb"), copy).unwrap();
        server.restart();
        self.server = server;
    }

    fn load_an_older_copy(&mut self) {
        self.save();
        self.publish();
        self.run(&["DEBUG", "RELOAD", "NOSAVE"]);
    }

    fn flush_and_reload(&mut self) {
        self.run(&["FLUSHALL"]);
        self.run(&["DEBUG", "RELOAD"]);
    }

    fn remove_the_library(&mut self) {
        let library = if self.way == Way::Function { "FUNCTION" } else { "SCRIPT" };
        self.run(&[library, "FLUSH"]);
    }

    /// A replica that has everything so far.
    fn attach_a_replica(&mut self) {
        let replica = self.other.take().unwrap_or_else(|| start(self.version));
        follow(&replica, &self.server);
        self.other = Some(replica);
    }

    /// From Redis 7 on, the server names its earlier history after that, as a promoted one does.
    fn restart_with_a_replica(&mut self) {
        self.attach_a_replica();
        self.publish();
        self.restart();
    }

    /// Promotes the replica, which clients then use.
    fn switch(&mut self) {
        let replica = self.other.take().unwrap();
        replica.run::<()>(&["REPLICAOF", "NO", "ONE"]);
        self.other = Some(std::mem::replace(&mut self.server, replica));
    }

    fn promote(&mut self) {
        self.attach_a_replica();
        self.switch();
    }

    fn promote_behind(&mut self) {
        self.attach_a_replica();
        let replica = self.other.as_ref().unwrap();
        replica.run::<()>(&["REPLICAOF", "NO", "ONE"]);
        self.publish();
        self.publish();
        self.switch();
    }

    fn fail_back(&mut self) {
        self.promote();
        self.publish();
        self.promote_behind();
    }

    fn fail_over_twice(&mut self) {
        self.promote();
        self.promote();
    }
}

fn start(version: RedisVersion) -> RedisServer {
    let mut arguments = vec!["--save", "", "--repl-diskless-sync-delay", "0"];
    if version.has_functions() {
        arguments.extend(["--enable-debug-command", "yes"]);
    }
    version.start(&arguments)
}

/// Makes a server the replica of another one, and waits until it has everything.
fn follow(replica: &RedisServer, primary: &RedisServer) {
    replica.run::<()>(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    let offset_of = |server: &RedisServer, name: &str| -> Option<u64> {
        let info: String = server.run(&["INFO", "replication"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|offset| offset.trim().parse().ok())
    };
    wait_for("the replica has everything", || {
        let info: String = replica.run(&["INFO", "replication"]);
        info.contains("master_link_status:up")
            && offset_of(replica, "slave_repl_offset") == offset_of(primary, "master_repl_offset")
    });
}
