//! Leaves that are split and collapsed, again and again, beside everybody.

mod stop;
