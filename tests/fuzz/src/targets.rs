//! The targets. Each is a function of one input. A panic is a finding.

macro_rules! targets {
    ($($name:ident),*) => {
        $(pub mod $name;)*

        /// Every target by its name.
        pub const ALL: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

targets!(advertisement, chain, graphql, host, json, model, pack, pktline, push, receive_pack, refname, target);
