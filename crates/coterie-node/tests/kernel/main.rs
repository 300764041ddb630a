//! `coteried` as shipped, on real kernel interfaces, in namespaces made by the lab: each test starts daemons from bundles that
//! the issuer made and drives them with programs that we did not write.

mod enrol;
mod epoch;
mod flood;
mod python;
mod restart;
mod served;
mod server;
mod site;
mod start;
mod traffic;
