//! Journal, data sets, recovery, export and pictures.
