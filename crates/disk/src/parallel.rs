//! Work on a sequence by several threads, results in order.
//!
//! A disk gives its best only with several requests under way (a queue depth of 4 to 8 on the machines measured, see
//! `docs/performance.md`); formats want their frames in order. Worker *n* takes every *n*-th item and hands
//! results to the caller through its own short queue, so order needs no buffer and memory is bounded.

use crossbeam_channel::bounded;

/// Results each worker may be ahead.
const AHEAD: usize = 2;

/// Calls `map` on the items from `threads` threads and `each` on the results in order, on this thread. Ends at
/// the first error of either. With fewer than two threads everything happens here, in order, which
/// makes simulations reproducible.
///
/// # Errors
/// That first error.
pub fn ordered<T: Send, R: Send, E: Send>(
    items: impl Iterator<Item = T> + Clone + Send,
    threads: usize,
    map: impl Fn(T) -> Result<R, E> + Sync,
    mut each: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    if threads < 2 {
        return items.into_iter().try_for_each(|item| each(map(item)?));
    }
    std::thread::scope(|scope| {
        let queues: Vec<_> = (0..threads)
            .map(|worker| {
                let (sender, receiver) = bounded(AHEAD);
                let (items, map) = (items.clone(), &map);
                scope.spawn(move || {
                    // The receiver is gone when the caller has failed: nothing more to do.
                    items.skip(worker).step_by(threads).map(map).all(|result| {
                        let go_on = result.is_ok();
                        sender.send(result).is_ok() && go_on
                    });
                });
                receiver
            })
            .collect();
        for worker in (0..threads).cycle() {
            match queues[worker].recv() {
                Ok(result) => each(result?)?,
                Err(_) => break,
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::ordered;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        for threads in [1, 2, 5] {
            let mut seen = Vec::new();
            let ended = ordered(
                0..1000,
                threads,
                |n| if n == 700 { Err(n) } else { Ok(n) },
                |n| {
                    seen.push(n);
                    Ok(())
                },
            );
            assert_eq!(ended, Err(700));
            assert_eq!(seen, (0..700).collect::<Vec<_>>());
            let stopped = ordered(0..1000, threads, Ok, |n| if n == 3 { Err("enough") } else { Ok(()) });
            assert_eq!(stopped, Err("enough"));
        }
    }
}
