#![no_main]

fencegate_fuzz::target!("config");
