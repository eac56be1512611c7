"""The order of a sweep's work: find, judge, collect, have deleted, report."""
