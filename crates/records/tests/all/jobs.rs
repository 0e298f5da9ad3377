use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use kernel::FixedClock;
use records::{Error, JobFailure, Jobs, NewJob, Records, RetryPolicy};
use serde_json::json;

use crate::support::{BOTH, Place, counter, demo, fixed_clock};

const POLICY: RetryPolicy = RetryPolicy {
    lease: Duration::from_secs(60),
    first_pause: Duration::from_secs(10),
    longest_pause: Duration::from_secs(40),
};
const SECOND: i64 = 1_000_000;

fn open(place: &Place) -> (Records, Jobs, Arc<FixedClock>) {
    drop(demo(place));
    let clock = fixed_clock();
    let records = place.open_at(clock.clone());
    let jobs = records.jobs().with_policy(POLICY);
    (records, jobs, clock)
}

async fn enqueue(records: &Records, job: NewJob) -> Option<kernel::Id<records::Job>> {
    records.write(move |tx| tx.enqueue(job.clone())).await.unwrap_or_else(|error: Error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_rests_longer_each_time_and_dies_at_last() {
    for engine in BOTH {
        let place = Place::new(engine);
        let (records, jobs, clock) = open(&place);
        let id =
            enqueue(&records, NewJob { max_attempts: 3, ..NewJob::new("mail", json!({ "to": "a" })) }).await.unwrap();
        for (attempt, longest) in [(1, 10), (2, 20), (3, 0)] {
            let taken = jobs.claim("mail", 10).await.unwrap();
            assert_eq!(
                taken.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(),
                [(id, attempt)],
                "{engine:?}"
            );
            assert_eq!(taken[0].payload, json!({ "to": "a" }));
            assert!(jobs.claim("mail", 10).await.unwrap().is_empty(), "leased");
            assert_eq!(jobs.fail(&taken[0], &JobFailure::Retry(format!("no {attempt}\0"))).await, Ok(true));
            assert_eq!(jobs.fail(&taken[0], &JobFailure::Retry("again".into())).await, Ok(false), "lease given back");
            // Not before half of the pause, certainly after all of it.
            clock.advance_micros(longest * SECOND / 2 - 1);
            assert!(jobs.claim("mail", 10).await.unwrap().is_empty(), "{engine:?}");
            clock.advance_micros(longest * SECOND / 2 + 1);
        }
        assert_eq!(jobs.count("mail").await, Ok(0));
        let dead = jobs.dead("mail", None, 10).await.unwrap();
        assert_eq!((dead.len(), dead[0].id, dead[0].attempts, dead[0].last_error.as_str()), (1, id, 3, "no 3"));
        assert_eq!(jobs.dead("mail", Some(id), 10).await, Ok(vec![]));
        assert_eq!(jobs.requeue(id).await, Ok(true));
        assert_eq!(jobs.requeue(id).await, Ok(false));
        let again = jobs.claim("mail", 1).await.unwrap();
        assert_eq!((again[0].id, again[0].attempt), (id, 1));
        assert_eq!(jobs.complete(&again[0]).await, Ok(true));
        assert_eq!((jobs.count("mail").await, jobs.dead("mail", None, 10).await), (Ok(0), Ok(vec![])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_crashed_worker_comes_back() {
    for engine in BOTH {
        let place = Place::new(engine);
        let (records, jobs, clock) = open(&place);
        let id = enqueue(&records, NewJob { max_attempts: 2, ..NewJob::new("mail", json!(1)) }).await.unwrap();
        let lost = jobs.claim("mail", 1).await.unwrap().remove(0);
        clock.advance_micros(50 * SECOND);
        assert_eq!(jobs.renew(&lost).await, Ok(true));
        clock.advance_micros(59 * SECOND);
        assert!(jobs.claim("mail", 1).await.unwrap().is_empty(), "renewed");
        assert_eq!(jobs.next_due("mail").await.unwrap(), Some(records.now().plus_micros(SECOND)));
        clock.advance_micros(SECOND);
        let taken = jobs.claim("mail", 1).await.unwrap().remove(0);
        assert_eq!((taken.id, taken.attempt), (id, 2), "{engine:?}");
        // The first worker was only slow: whatever it says now does not count, and its effect is undone.
        assert_eq!(jobs.renew(&lost).await, Ok(false));
        assert_eq!(jobs.complete(&lost).await, Ok(false));
        let late = lost.clone();
        let effect = records.write(move |tx| {
            tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'a'", &[])?;
            tx.complete(&late)
        });
        assert!(matches!(effect.await, Err(Error::Check(_))));
        assert_eq!(counter(&records, "a").await, Some(0));
        // The second one dies as well, and that was its last attempt.
        clock.advance_micros(60 * SECOND);
        assert!(jobs.claim("mail", 1).await.unwrap().is_empty());
        let dead = jobs.dead("mail", None, 10).await.unwrap();
        assert_eq!((dead.len(), dead[0].id, dead[0].attempts), (1, id, 2), "{engine:?}");
        assert_eq!((jobs.discard(id).await, jobs.discard(id).await), (Ok(true), Ok(false)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_stands_for_one_living_job() {
    for engine in BOTH {
        let place = Place::new(engine);
        let (records, jobs, _) = open(&place);
        let job = |queue: &str| NewJob { unique_key: Some("seal-1".to_owned()), ..NewJob::new(queue, json!(0)) };
        assert!(enqueue(&records, job("seal")).await.is_some());
        assert!(enqueue(&records, job("seal")).await.is_none());
        assert!(enqueue(&records, job("other")).await.is_some());
        let taken = jobs.claim("seal", 1).await.unwrap().remove(0);
        assert!(enqueue(&records, job("seal")).await.is_none(), "it runs");
        assert_eq!(jobs.fail(&taken, &JobFailure::GiveUp("never".into())).await, Ok(true));
        assert!(enqueue(&records, job("seal")).await.is_some(), "the dead do not count");
        assert_eq!(jobs.requeue(taken.id).await, Ok(false), "its key is taken");
        assert_eq!(jobs.dead("seal", None, 10).await.unwrap().len(), 1);
        let undone = records.write(move |tx| {
            tx.enqueue(NewJob::new("never", json!(0)))?;
            Err::<(), _>(Error::NoRow)
        });
        assert_eq!(undone.await, Err(Error::NoRow));
        assert_eq!(jobs.count("never").await, Ok(0), "{engine:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_wait_for_their_time_and_come_in_order() {
    for engine in BOTH {
        let place = Place::new(engine);
        let (records, jobs, clock) = open(&place);
        let now = records.now();
        for (name, after) in [("late", 30), ("soon", 10), ("now", 0), ("past", -99)] {
            enqueue(&records, NewJob { run_at: now.plus_secs(after), ..NewJob::new("q", json!(name)) }).await;
        }
        let names = |jobs: Vec<records::Job>| {
            let mut names: Vec<String> = jobs.iter().map(|job| job.payload.as_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(jobs.claim("q", 10).await.unwrap()), ["now", "past"], "{engine:?}");
        clock.advance_micros(30 * SECOND);
        assert_eq!(names(jobs.claim("q", 1).await.unwrap()), ["soon"], "{engine:?}");
        assert_eq!(names(jobs.claim("q", 1).await.unwrap()), ["late"], "{engine:?}");
    }
}

/// Two loops share a queue: every job is done once in all, failures and panics come again, and the loops end when asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_loop_does_every_job() {
    for engine in BOTH {
        let place = Place::new(engine);
        drop(demo(&place));
        let records = place.open();
        let policy = RetryPolicy { first_pause: Duration::from_millis(10), ..POLICY };
        let done: Arc<Mutex<BTreeMap<i64, u32>>> = Arc::default();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let loops: Vec<_> = (0..2)
            .map(|_| {
                let (jobs, done, mut stopped) =
                    (records.jobs().with_policy(policy), Arc::clone(&done), stopped.clone());
                tokio::spawn(async move {
                    let worker = |job: records::Job| {
                        let done = Arc::clone(&done);
                        async move {
                            let n = job.payload.as_i64().unwrap();
                            match (n % 10, job.attempt) {
                                (3, 1) => return Err(JobFailure::Retry("not yet".to_owned())),
                                (5, 1) => panic!("boom"),
                                (7, _) => return Err(JobFailure::GiveUp("never".to_owned())),
                                _ => {}
                            }
                            *done.lock().unwrap().entry(n).or_default() += 1;
                            Ok(())
                        }
                    };
                    let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
                    jobs.run("work", 4, worker, shutdown).await
                })
            })
            .collect();
        for n in 0..100_i64 {
            enqueue(&records, NewJob::new("work", json!(n))).await;
        }
        let jobs = records.jobs();
        while jobs.count("work").await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.send(true).unwrap();
        for running in loops {
            assert_eq!(running.await.unwrap(), Ok(()));
        }
        let expected: BTreeMap<i64, u32> = (0..100).filter(|n| n % 10 != 7).map(|n| (n, 1)).collect();
        assert_eq!(*done.lock().unwrap(), expected, "{engine:?}");
        assert_eq!(jobs.dead("work", None, 100).await.unwrap().len(), 10, "{engine:?}");
    }
}
