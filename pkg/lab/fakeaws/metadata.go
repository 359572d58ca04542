package fakeaws

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What all instances have in common.
const (
	imageID      = "ami-00000000000000001"
	instanceType = "m5.large"
	architecture = "x86_64"
)

const (
	tokenPath      = "/latest/api/token"
	tokenHeader    = "X-Aws-Ec2-Metadata-Token"
	tokenTTLHeader = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	maxTokenTTL    = 6 * 60 * 60
)

// MetadataOptions are how an instance's metadata service answers.
type MetadataOptions struct {
	// TokensRequired turns IMDSv1 off.
	TokensRequired bool
	// Disabled has every request answered with 403.
	Disabled bool
	// HopLimit is how far the answer with a token gets, 0 meaning 1 as in EC2. In
	// a Router's namespace it is the time to live of its packets.
	HopLimit int
	// Delay is how long every answer takes to come.
	Delay time.Duration
}

func (o MetadataOptions) hopLimit() int { return max(1, o.HopLimit) }

// SetMetadata changes how the metadata service answers.
func (i *Instance) SetMetadata(opts MetadataOptions) {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	i.metadata = opts
}

// Metadata is the instance's metadata service as an HTTP handler.
func (i *Instance) Metadata() http.Handler { return http.HandlerFunc(i.serveMetadata) }

func (i *Instance) serveMetadata(w http.ResponseWriter, r *http.Request) {
	i.cloud.mu.Lock()
	delay := i.metadata.Delay
	i.cloud.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	header := w.Header()
	header.Set("Server", "EC2ws")
	header.Set("Date", i.cloud.clock().UTC().Format(http.TimeFormat))
	switch {
	case i.metadata.Disabled, i.state.now() != running:
		http.Error(w, "", http.StatusForbidden)
	case r.URL.Path == tokenPath:
		limitHops(r, i.metadata.hopLimit())
		i.serveToken(w, r)
	default:
		limitHops(r, defaultHops)
		i.serveDocument(w, r)
	}
}

func (i *Instance) serveToken(w http.ResponseWriter, r *http.Request) {
	ttl, err := strconv.Atoi(r.Header.Get(tokenTTLHeader))
	switch {
	case r.Method != http.MethodPut:
		http.Error(w, "", http.StatusMethodNotAllowed)
	case r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "", http.StatusForbidden)
	case err != nil || ttl < 1 || ttl > maxTokenTTL:
		http.Error(w, "", http.StatusBadRequest)
	default:
		token := rand.Text() + "=="
		i.tokens[token] = i.cloud.clock().Add(time.Duration(ttl) * time.Second)
		w.Header().Set(tokenTTLHeader, strconv.Itoa(ttl))
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(token))
	}
}

func (i *Instance) serveDocument(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get(tokenHeader)
	ends, known := i.tokens[token]
	if token == "" && i.metadata.TokensRequired || token != "" && (!known || !i.cloud.clock().Before(ends)) {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "", http.StatusMethodNotAllowed)
		return
	}
	text, ok := i.document(r.URL.Path)
	if !ok {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(text))
}

// document is what is at a path: a text, or the list of what is below.
func (i *Instance) document(path string) (string, bool) {
	path, ok := strings.CutPrefix(path, "/latest/")
	if !ok {
		return "", false
	}
	documents := i.documents()
	if text, ok := documents[path]; ok {
		return text, true
	}
	below := strings.TrimSuffix(path, "/") + "/"
	var names []string
	for name := range documents {
		if rest, ok := strings.CutPrefix(name, below); ok {
			name, _, deeper := strings.Cut(rest, "/")
			if deeper {
				name += "/"
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), "\n"), len(names) > 0
}

func (i *Instance) documents() map[string]string {
	c, nics := i.cloud, i.interfaces.now()
	first := nics[0]
	documents := map[string]string{
		"meta-data/ami-id":                      imageID,
		"meta-data/hostname":                    c.dnsName(first),
		"meta-data/instance-id":                 i.ID,
		"meta-data/instance-type":               instanceType,
		"meta-data/local-hostname":              c.dnsName(first),
		"meta-data/local-ipv4":                  first.Addr.String(),
		"meta-data/mac":                         first.MAC.String(),
		"meta-data/placement/availability-zone": i.subnet.Zone,
		"meta-data/placement/region":            c.Region,
		"meta-data/reservation-id":              i.reservation,
		"meta-data/services/domain":             "amazonaws.com",
		"meta-data/services/partition":          "aws",
		"dynamic/instance-identity/document":    i.identity(),
	}
	for _, n := range nics {
		for name, text := range map[string]string{
			"device-number":          strconv.Itoa(n.index),
			"interface-id":           n.ID,
			"local-hostname":         c.dnsName(n),
			"local-ipv4s":            n.Addr.String(),
			"mac":                    n.MAC.String(),
			"owner-id":               accountID,
			"subnet-id":              n.Subnet.ID,
			"subnet-ipv4-cidr-block": n.Subnet.Prefix.String(),
			"vpc-id":                 n.Subnet.VPC.ID,
			"vpc-ipv4-cidr-block":    n.Subnet.VPC.Prefix.String(),
			"vpc-ipv4-cidr-blocks":   n.Subnet.VPC.Prefix.String(),
		} {
			documents["meta-data/network/interfaces/macs/"+n.MAC.String()+"/"+name] = text
		}
		for name, of := range map[string]interface {
			IsValid() bool
			String() string
		}{
			"ipv6s":                   n.six,
			"subnet-ipv6-cidr-blocks": n.Subnet.six,
			"vpc-ipv6-cidr-blocks":    n.Subnet.VPC.six,
		} {
			if of.IsValid() { // else there is no such document
				documents["meta-data/network/interfaces/macs/"+n.MAC.String()+"/"+name] = of.String()
			}
		}
	}
	if i.role != "" {
		documents["meta-data/iam/security-credentials/"+i.role] = i.roleDocument()
	}
	return documents
}

func (i *Instance) roleDocument() string {
	now := i.current()
	return document(map[string]any{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now.issued.UTC().Format(time.RFC3339),
		"AccessKeyId": now.AccessKeyID, "SecretAccessKey": now.SecretAccessKey, "Token": now.SessionToken,
		"Expiration": now.Expires.UTC().Format(time.RFC3339),
	})
}

func (i *Instance) identity() string {
	return document(map[string]any{
		"accountId": accountID, "architecture": architecture, "availabilityZone": i.subnet.Zone,
		"billingProducts": nil, "devpayProductCodes": nil, "marketplaceProductCodes": nil, "imageId": imageID,
		"instanceId": i.ID, "instanceType": instanceType, "kernelId": nil,
		"pendingTime": i.launched.UTC().Format(time.RFC3339), "privateIp": i.interfaces.now()[0].Addr.String(),
		"ramdiskId": nil, "region": i.cloud.Region, "version": "2017-09-30",
	})
}

func document(fields map[string]any) string {
	text, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("writing a document: %v", err)) // it has texts only
	}
	return string(text)
}
