//! What only the NATS engine has to bear: a server that goes away.

use stream::{Offset, Options, TopicOptions};
use testkit::nats::Server;

use crate::{TOPIC, append_all, open, payload, read_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_readers_survive_a_restart_of_the_server() {
    let mut server = Server::start();
    let stream = open(Options::nats(server.url(), [TopicOptions::new(TOPIC)])).await;
    let topic = stream.topic(TOPIC).unwrap();
    append_all(&topic, 0..100).await;
    let mut subscription = topic.subscribe(Offset(0)).await.unwrap();
    let consumer = topic.consumer("lake").await.unwrap();
    read_to(&mut subscription, 100).await;
    let writer = tokio::spawn({
        let topic = topic.clone();
        async move { append_all(&topic, 100..2_000).await }
    });
    while topic.end() < Offset(300) {
        tokio::task::yield_now().await;
    }
    tokio::task::block_in_place(|| server.restart());
    writer.await.unwrap();
    let records = read_to(&mut subscription, 2_000).await;
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.payload, payload(100 + n as u64), "sent again, stored once");
    }
    consumer.commit(Offset(1_999)).await.unwrap();
    stream.close().await;
    drop((consumer, topic, stream));
    let stream = open(Options::nats(server.url(), [TopicOptions::new(TOPIC)])).await;
    assert_eq!(stream.topic(TOPIC).unwrap().consumer("lake").await.unwrap().committed(), Offset(2_000));
    stream.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_topic() {
    let server = Server::start();
    let (one, two) = (
        open(Options::nats(server.url(), [TopicOptions::new(TOPIC)])).await,
        open(Options::nats(server.url(), [TopicOptions::new(TOPIC)])).await,
    );
    let (here, there) = (one.topic(TOPIC).unwrap(), two.topic(TOPIC).unwrap());
    append_all(&here, 0..10).await;
    assert_eq!(there.append(payload(10)).await.unwrap(), Offset(10));
    read_to(&mut here.subscribe(Offset(0)).await.unwrap(), 11).await;
    assert_eq!(here.end(), Offset(11));
    let (first, second) = (here.consumer("lake").await.unwrap(), there.consumer("lake").await.unwrap());
    first.commit(Offset(8)).await.unwrap();
    second.commit(Offset(3)).await.unwrap();
    assert_eq!(second.committed(), Offset(9), "the other process was further on");
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let mut server = Server::start();
    server.kill();
    let options = Options::nats(server.url(), [TopicOptions::new(TOPIC)]);
    let error = stream::Stream::open(options, std::sync::Arc::new(kernel::SystemClock)).await.err().unwrap();
    assert!(matches!(error, stream::Error::Nats { .. }), "{error}");
}
