# Of what "go test" printed: which tests failed and the first things that each said,
# races and panics. Logs, which are long, are left out.
/^ *--- FAIL/ || /^FAIL/    { print; said = 5; next }
/^WARNING: DATA RACE|^panic:|^fatal error:/ { trace = 15 }
trace > 0                   { print; trace--; next }
!/^ /                       { said = 0 }
/^ *[a-z0-9_]+\.go:[0-9]+: log of / { next }
said > 0 && /^ *[a-z0-9_]+\.go:[0-9]+: / { print substr($0, 1, 250); said-- }
