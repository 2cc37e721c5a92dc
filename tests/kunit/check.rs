// SPDX-License-Identifier: GPL-2.0

//! An assertion for helpers and loops: says where and with which case, and returns.
//!
//! KUnit's own `assert!` works in the body of a test only, and does not tell the case.

/// Returns [`EINVAL`](kernel::error::code::EINVAL) from the function, after a line in the log,
/// unless the condition holds.
macro_rules! check {
    ($cond:expr $(,)?) => {
        check!($cond, "")
    };
    ($cond:expr, $($case:tt)+) => {
        if !$cond {
            ::kernel::prelude::pr_err!(
                "{}:{}: {} is false; {}\n",
                file!(),
                line!(),
                stringify!($cond),
                ::core::format_args!($($case)+)
            );
            return Err(::kernel::error::code::EINVAL);
        }
    };
}

pub(crate) use check;
