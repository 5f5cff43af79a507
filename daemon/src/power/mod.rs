//! UPSes through NUT: client, policy, budget.
