package record

// The user's SSH key pair, created for these tests. No system accepts it.
const (
	privateKey = `-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACClTh9FqW1UIIo9BN7fbSXRtLHVvxDPaZWRPvGCnbyzAgAAAJgdcMOKHXDD
igAAAAtzc2gtZWQyNTUxOQAAACClTh9FqW1UIIo9BN7fbSXRtLHVvxDPaZWRPvGCnbyzAg
AAAECi3Rk8hSSJEJ48z4pkdqHbASFpoMasRxcgSbSC4rWLxqVOH0WpbVQgij0E3t9tJdG0
sdW/EM9plZE+8YKdvLMCAAAADnBlcnNvbkBleGFtcGxlAQIDBAUGBw==
-----END OPENSSH PRIVATE KEY-----
`
	publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKVOH0WpbVQgij0E3t9tJdG0sdW/EM9plZE+8YKdvLMC person@example\n"
)

// hostPublic is the host key of a guest that aivm did not create.
const hostPublic = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIIAjK9Gk5EadFJDzWljmleIaq813ifSKK0J0RfiufL4"
