package doctor

// checks are all that there are, from what others rely on to what relies on them.
var checks = []check{
	{"daemon", checkDaemon},
	{"store", checkStore},
	{"access", checkAccess},
	{"clock", checkClock},
	{"configuration", checkConfig},
	{"interface", checkInterface},
	{"lease", checkLease},
	{"subnet file", checkEnv},
	{"kernel", checkKernel},
	{"objects", checkObjects},
	{"leftovers", checkLeft},
	{"forwarding", checkForwarding},
	{"rp_filter", checkReversePath},
	{"bridge", checkBridged},
	{"filters", checkFilters},
	{"routes", checkRoutes},
	{"overlap", checkOverlap},
	{"pods", checkPods},
	{"CNI", checkCNI},
	{"boot order", checkBoot},
	{"leases", checkLeases},
	{"reachability", checkReachability},
	{"path MTU", checkMTU},
}
