# Of what "go test" printed: the tests that failed with what they said, the races and
# the panics, without the logs of everything beside them.
/^ *--- FAIL/ || /^FAIL/    { print; said = 1; next }
/^WARNING: DATA RACE|^panic:|^fatal error:/ { trace = 40 }
trace > 0                   { print; trace--; next }
said && /^ +/               { print; next }
                            { said = 0 }
