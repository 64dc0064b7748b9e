//! Tests: Redis.

use super::*;
use crate::health::probe::redis;

#[tokio::test]
async fn redis_is_up_unless_it_sends_clients_away() {
    for piece in PIECES {
        for (says, verdict) in [
            ("+PONG\r\n", Ok(())),
            ("-NOAUTH Authentication required.\r\n", Ok(())),
            ("-NOPERM this user has no permissions\r\n", Ok(())),
            ("-LOADING Redis is loading\r\n", Err("it answers PING with -LOADING Redis is loading")),
            ("-MASTERDOWN Link is down\r\n", Err("it answers PING with -MASTERDOWN Link is down")),
            ("-ERR max number of clients reached\r\n", Err("it answers PING with -ERR max number of clients reached")),
            ("HTTP/1.1 400 Bad Request\r\n", Err("not a Redis answer: HTTP/1.1 400 Bad Request")),
            ("+PONG", Err("it closed the connection in the middle of its answer")),
        ] {
            let (mut near, heard) = backend(piece, vec![(14, says.into())]);
            let answer = redis::probe(&mut near).await;
            drop(near);
            assert_eq!(answer.clone().map_err(|f| f.line()), verdict.map_err(String::from));
            let goodbye = if answer.is_ok() { "*1\r\n$4\r\nQUIT\r\n" } else { "" };
            assert_eq!(heard.await.unwrap(), format!("*1\r\n$4\r\nPING\r\n{goodbye}").into_bytes());
        }
    }
    assert_eq!(reason(redis::probe(&mut stubborn(b"+".to_vec(), true)).await), "its answer is longer than 64 KiB");
}
