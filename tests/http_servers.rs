//! Real programs with evener between them: curl, h2load, WebSockets and gRPC.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use harness::http::{chunked, pool_of, reply, site};
use harness::{Backend, Evener, Pattern, SOON, free_port, local, require, skip, try_connect, wait_until};

const MIB: usize = 1024 * 1024;
/// Debian's, which has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

fn run(words: &[&str]) -> Output {
    Command::new("timeout").args(["-k", "1", "60"]).args(words).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sends the body back, in chunks where that is asked for.
fn mirror() -> Backend {
    Backend::web("mirror", |request, stream| {
        if request.path() == "/chunked" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            return stream.write_all(&chunked(&request.body, ""));
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len()).as_bytes())?;
        stream.write_all(&request.body)
    })
}

// --- curl and h2load ------------------------------------------------------------------------------------------------------

#[test]
fn curl_gets_and_sends_by_every_version() {
    if !require("curl_gets_and_sends_by_every_version", &["curl"]) {
        return;
    }
    let backend = mirror();
    let evener = Evener::start(&site("", "", "", &[&backend]));
    let folder = tempfile::tempdir().unwrap();
    let (file, back) = (folder.path().join("file"), folder.path().join("back"));
    Pattern::default().send(&mut fs::File::create(&file).unwrap(), MIB as u64).unwrap();
    let (upload, back_path) = (format!("@{}", file.display()), back.to_str().unwrap());
    for (version, shown) in
        [("--http1.0", "1"), ("--http1.1", "1.1"), ("--http2", "1.1"), ("--http2-prior-knowledge", "2")]
    {
        for path in ["/length", "/chunked"] {
            let url = format!("http://127.0.0.1:{}{path}", evener.port("web"));
            for framing in ["x-none: 1", "transfer-encoding: chunked"] {
                if version == "--http1.0" && framing.contains("chunked") {
                    continue;
                }
                let words = ["curl", "-sS", "--fail", version, "-H", framing, "--data-binary", &upload];
                let ask = ["-o", back_path, "-w", "%{http_version} %{http_code}", &url];
                let printed = done(&run(&[&words[..], &ask].concat()));
                assert_eq!(printed, format!("{shown} 200"), "{version} {path} {framing}");
                assert!(fs::read(&back).unwrap() == fs::read(&file).unwrap(), "{version} {path} {framing}");
            }
            let words = ["curl", "-sS", "--fail", "-I", version, &url];
            assert!(done(&run(&words)).contains("200"), "HEAD {version}");
        }
    }
}

#[test]
fn a_thousand_requests_by_http_2_are_answered() {
    if !require("a_thousand_requests_by_http_2_are_answered", &["h2load"]) {
        return;
    }
    let backend = Backend::web("b", |_, stream| stream.write_all(reply("200 OK", &"x".repeat(10_000)).as_bytes()));
    let evener = Evener::start(&site("", "", "", &[&backend]));
    let url = format!("http://127.0.0.1:{}/", evener.port("web"));
    let printed = done(&run(&["h2load", "-n", "1000", "-c", "4", "-m", "20", &url]));
    assert!(printed.contains("1000 succeeded, 0 failed, 0 errored"), "{printed}");
    assert_eq!(backend.requests().len(), 1000);
    assert!(backend.accepted() <= 200, "{} connections for 80 requests at once", backend.accepted());
}

// --- Programs in Python -----------------------------------------------------------------------------------------------------

/// Whether Debian's Python has this module.
fn require_module(test: &str, module: &str) -> bool {
    let has =
        Command::new(PYTHON).args(["-c", &format!("import {module}")]).output().is_ok_and(|done| done.status.success());
    if !has {
        skip(test, &format!("{PYTHON} with {module}"));
    }
    has
}

/// A server in Python that is told its port; ended when dropped.
struct Server {
    port: u16,
    child: Child,
}

impl Server {
    fn start(program: &str) -> Self {
        let port = free_port();
        let child = Command::new(PYTHON).args(["-c", program, &port.to_string()]).stdin(Stdio::null()).spawn().unwrap();
        let server = Self { port, child };
        wait_until(3 * SOON, "the server listens", || try_connect(port).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// evener with listener `web` before it.
fn before(server: &Server, pool_keys: &str) -> Evener {
    let everything = site("", "", "", &[]);
    let front = everything.split("[pool").next().unwrap();
    Evener::start(&(front.to_owned() + &pool_of("web", local(server.port), pool_keys)))
}

#[track_caller]
fn client(program: &str, port: u16) {
    let printed = done(&run(&[PYTHON, "-c", program, &port.to_string()]));
    assert_eq!(printed.trim(), "good");
}

const WEBSOCKET_SERVER: &str = r#"
import asyncio, sys, websockets
async def echo(socket):
    await socket.send("from " + socket.request_headers["x-forwarded-for"])
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None):
        await asyncio.Future()
asyncio.run(main())
"#;

const WEBSOCKET_CLIENT: &str = r#"
import asyncio, os, sys, websockets
async def main():
    url = "ws://127.0.0.1:" + sys.argv[1] + "/chat"
    async with websockets.connect(url, max_size=None) as socket:
        assert await socket.recv() == "from 127.0.0.1"
        for message in ["text", "", os.urandom(3), os.urandom(1 << 20)]:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code
    print("good")
asyncio.run(main())
"#;

#[test]
fn web_sockets_pass() {
    if !require_module("web_sockets_pass", "websockets") {
        return;
    }
    let server = Server::start(WEBSOCKET_SERVER);
    let evener = before(&server, "");
    for _ in 0..2 {
        client(WEBSOCKET_CLIENT, evener.port("web"));
    }
    wait_until(SOON, "both are in the log", || {
        evener.events().iter().filter(|event| event["status"] == 101).count() == 2
    });
}

const GRPC_SERVER: &str = r#"
import grpc, sys, time
from concurrent.futures import ThreadPoolExecutor
def one(request, context):
    context.set_trailing_metadata((("x-end", "one"),))
    if request == b"gone":
        context.abort(grpc.StatusCode.NOT_FOUND, "it is gone")
    if request == b"slow":
        time.sleep(3)
    return request
def many(request, context):
    for at in range(5):
        yield request + b"%d" % at
def joined(requests, context):
    return b"".join(requests)
def both(requests, context):
    yield from requests
calls = {
    "One": grpc.unary_unary_rpc_method_handler(one), "Many": grpc.unary_stream_rpc_method_handler(many),
    "Joined": grpc.stream_unary_rpc_method_handler(joined), "Both": grpc.stream_stream_rpc_method_handler(both),
}
server = grpc.server(ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", calls),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import grpc, queue, sys, time
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1])
one, many = channel.unary_unary("/t.T/One"), channel.unary_stream("/t.T/Many")
joined, both = channel.stream_unary("/t.T/Joined"), channel.stream_stream("/t.T/Both")
answer, call = one.with_call(b"x" * 100000, timeout=20)
assert answer == b"x" * 100000 and call.code() == grpc.StatusCode.OK
assert ("x-end", "one") in [tuple(pair) for pair in call.trailing_metadata()], call.trailing_metadata()
assert list(many(b"m", timeout=20)) == [b"m%d" % at for at in range(5)]
assert joined(iter([b"a", b"b", b"c"]), timeout=20) == b"abc"
sent = queue.Queue()
answers = both(iter(sent.get, None), timeout=20)
for word in [b"one", b"two", b"y" * 300000]:
    sent.put(word)
    assert next(answers) == word
sent.put(None)
assert list(answers) == []
def failure(request, timeout):
    try:
        one(request, timeout=timeout)
    except grpc.RpcError as error:
        return error.code(), error.details()
assert failure(b"gone", 20) == (grpc.StatusCode.NOT_FOUND, "it is gone"), failure(b"gone", 20)
began = time.monotonic()
assert failure(b"slow", 0.3)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
assert time.monotonic() - began < 2
futures = [one.future(b"%d" % at, timeout=20) for at in range(50)]
assert [future.result() for future in futures] == [b"%d" % at for at in range(50)]
print("good")
"#;

#[test]
fn grpc_passes_by_all_four_kinds_of_calls_with_its_trailers_and_deadlines() {
    if !require_module("grpc_passes_by_all_four_kinds_of_calls_with_its_trailers_and_deadlines", "grpc") {
        return;
    }
    let server = Server::start(GRPC_SERVER);
    let evener = before(&server, "http = { version = \"2\" }");
    client(GRPC_CLIENT, evener.port("web"));
}
