package network

// Obstacle is something on this host that keeps packets from their way and is not ours
// to remove: a foreign rule, route or setting.
type Obstacle struct {
	// Subject is what cannot be reached or does not work: "10.5.3.0/24", "flannel.1".
	Subject string
	// Problem says what is in the way, and names it.
	Problem string
	// Remedy is the command, or the commands, that an administrator can give.
	Remedy string
}

func (o Obstacle) String() string {
	text := o.Subject + ": " + o.Problem
	if o.Remedy != "" {
		text += "; mend it by: " + o.Remedy
	}
	return text
}
