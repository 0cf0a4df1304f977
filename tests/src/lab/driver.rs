//! Starts the processes, has tasks ordered, and hurts the processes meanwhile.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use reqwest::Client;

use super::{
    LOOK_AGAIN, LabError, Plan,
    faults::Faults,
    history::History,
    orders::{Cluster, Orders, REQUEST_TIMEOUT},
    process::Process,
    pulse::Pulse,
    store::Opened,
};

/// Plays the plan.
///
/// # Errors
/// If a process cannot be started, or what is left cannot be read.
pub async fn drive(plan: &Plan) -> Result<History, LabError> {
    // Cargo unites the features of all crates: by the demo's, reqwest looks for a TLS library here, too. An error means
    // that another laboratory has done so already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()?;
    let mut history = History {
        lease: plan.store.lease(),
        ..History::default()
    };
    let store = Opened::open(plan.store, plan.processes);
    let pulse = store.pulse();
    let processes = start(plan, &store, &mut history).await?;
    let urls = processes.iter().map(|p| Some(p.url.clone())).collect();
    let orders = Arc::new(Orders::new(plan, Cluster::new(urls)));
    let mut callers = orders.start(&http);
    let mut faults = Faults {
        plan,
        store: &store,
        rng: Rng::with_seed(plan.seed),
        orders: orders.clone(),
        processes,
        history: &mut history,
        missing: None,
    };

    for fault in 1..=plan.faults {
        // Spread over the whole of it.
        while !orders.is_time_for(fault) && !orders.are_over() {
            faults.replace_fallen().await?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if orders.are_over() {
            break;
        }
        Box::pin(faults.strike(fault == plan.faults)).await?;
        orders.struck(fault);
        (plan.progress)(orders.placed(), fault);
    }
    let mut seen = Vec::new();
    while !callers.is_empty() {
        faults.replace_fallen().await?;
        let caller = tokio::time::timeout(Duration::from_millis(50), callers.join_next()).await;
        if let Ok(Some(of_caller)) = caller {
            seen.push(of_caller?);
        }
    }
    faults.calm_down(&http).await?;
    faults.end_all().await?;

    history.was_silent(pulse.map(Pulse::end).unwrap_or_default());
    for of_caller in seen {
        history.add(of_caller);
    }
    Box::pin(history.read(&plan.folder, &store)).await?;
    Ok(history)
}

async fn start(
    plan: &Plan,
    store: &Opened,
    history: &mut History,
) -> Result<Vec<Process>, LabError> {
    let mut processes = Vec::new();
    for n in 0..plan.processes {
        let crash_at = plan.crash_at.as_deref().filter(|_| n == 0);
        let start =
            || Process::start_on(plan.store, &plan.service, &plan.folder, store.settings(n));
        let process = match crash_at {
            None => start().await?,
            Some(_) => {
                let settings = store.settings(n);
                match Process::start(&plan.service, &plan.folder, settings, crash_at).await {
                    Ok(process) => process,
                    // At the start there is something to write, too.
                    Err(_) => {
                        history.n_aborts += 1;
                        start().await?
                    }
                }
            }
        };
        history.begins(&process);
        processes.push(process);
    }
    Ok(processes)
}
