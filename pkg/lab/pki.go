package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// CertFiles are the paths of a certificate and its key, in PEM.
type CertFiles struct {
	Cert, Key string
}

// CA is a certificate authority that writes what it signs into a directory.
type CA struct {
	CertFiles

	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// Expired and Valid are lifetimes for certificates.
const (
	Valid   = 24 * time.Hour
	Expired = -time.Hour
)

// NewCA makes an authority; its files are NAME.pem and NAME-key.pem in dir.
func NewCA(dir, name string) (*CA, error) {
	ca := &CA{dir: dir}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	var err error
	ca.CertFiles, err = ca.issue(name, template, Valid)
	return ca, err
}

// Server makes a certificate for a server at some addresses that ends after
// lifetime; it is for clients too, as etcd calls itself.
func (ca *CA) Server(name string, lifetime time.Duration, addrs ...netip.Addr) (CertFiles, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, a := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	return ca.issue(name, template, lifetime)
}

// Client makes a certificate for a client that ends after lifetime.
func (ca *CA) Client(name string, lifetime time.Duration) (CertFiles, error) {
	return ca.issue(name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, lifetime)
}

// issue signs a certificate, the first one by itself, and writes its files.
func (ca *CA) issue(name string, template *x509.Certificate, lifetime time.Duration) (CertFiles, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return CertFiles{}, fmt.Errorf("making a key for %s: %w", name, err)
	}
	ca.serial++
	template.SerialNumber = big.NewInt(ca.serial)
	template.NotAfter = time.Now().Add(lifetime)
	template.NotBefore = template.NotAfter.Add(-48 * time.Hour)
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return CertFiles{}, fmt.Errorf("signing the certificate of %s: %w", name, err)
	}
	if ca.cert == nil {
		if ca.cert, err = x509.ParseCertificate(der); err != nil {
			return CertFiles{}, fmt.Errorf("reading the certificate of %s: %w", name, err)
		}
		ca.key = key
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return CertFiles{}, fmt.Errorf("encoding the key of %s: %w", name, err)
	}
	files := CertFiles{
		Cert: filepath.Join(ca.dir, name+".pem"),
		Key:  filepath.Join(ca.dir, name+"-key.pem"),
	}
	if err := writePEM(files.Cert, "CERTIFICATE", der); err != nil {
		return CertFiles{}, err
	}
	return files, writePEM(files.Key, "EC PRIVATE KEY", keyDER)
}

func writePEM(path, kind string, der []byte) error {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
