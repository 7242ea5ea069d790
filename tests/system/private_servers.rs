//! Private servers: started, crashed, frozen, restarted and fetched.

mod checks;
mod fetch;
mod nats;
mod postgres;
mod processes;
