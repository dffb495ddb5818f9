"""The zoo: networks of all kinds, by all exporters, compiled and held to the bars."""
