//! Several programs that apply at once.
