{{/* What each object is labelled with. */}}
{{- define "flanneld.labels" -}}
app: flannel
k8s-app: flannel
tier: node
{{- end -}}

{{/* The daemon's image. */}}
{{- define "flanneld.image" -}}
{{- $image := .Values.flannel.image -}}
{{- if regexMatch "(^|/)flannel(-io)?/flannel$" $image.repository -}}
{{- fail (printf "flannel.image.repository: %s is flannel's own image, and this chart is flanneld's: leave flannel.image out, or name where the Nodes find flanneld" $image.repository) -}}
{{- end -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The configuration of the network. Whatever a value holds, this is JSON. */}}
{{- define "flanneld.netConf" -}}
{{- $flannel := .Values.flannel -}}
{{- $backend := dict "Type" $flannel.backend -}}
{{- range $value, $key := dict "backendPort" "Port" "mtu" "MTU" "vni" "VNI" "directRouting" "DirectRouting" "GBP" "GBP" -}}
{{- if hasKey $flannel $value -}}
{{- $_ := set $backend $key (get $flannel $value) -}}
{{- end -}}
{{- end -}}
{{- $conf := dict "Backend" $backend -}}
{{- if .Values.podCidr -}}
{{- $_ := set $conf "Network" .Values.podCidr -}}
{{- else -}}
{{- $_ := set $conf "EnableIPv4" false -}}
{{- end -}}
{{- if .Values.podCidrv6 -}}
{{- if eq $flannel.backend "udp" -}}
{{- fail "podCidrv6: the backend udp carries IPv4 alone: leave it empty, or have flannel.backend be vxlan or host-gw" -}}
{{- end -}}
{{- $_ := set $conf "EnableIPv6" true -}}
{{- $_ := set $conf "IPv6Network" .Values.podCidrv6 -}}
{{- else if not .Values.podCidr -}}
{{- fail "podCidr: without it, podCidrv6 must be the network of the pods" -}}
{{- end -}}
{{- if $flannel.enableNFTables -}}
{{- $_ := set $conf "EnableNFTables" true -}}
{{- end -}}
{{- toPrettyJson $conf -}}
{{- end -}}

{{/* What the daemon makes the configuration of CNI of; empty if it has that itself. */}}
{{- define "flanneld.cniConf" -}}
{{- $flannel := .Values.flannel -}}
{{- if $flannel.skipCNIConfigInstallation -}}
{{- else if kindIs "map" $flannel.cniConf -}}
{{- toPrettyJson $flannel.cniConf -}}
{{- else if $flannel.cniConf -}}
{{- trim $flannel.cniConf -}}
{{- else if eq $flannel.cniPlugin "flannel" -}}
{{- .Files.Get "files/flannel.conflist" | trim -}}
{{- end -}}
{{- end -}}

{{/* The image with the plugin flannel, if there is one. */}}
{{- define "flanneld.cniImage" -}}
{{- with mergeOverwrite (dict) .Values.flannel.image_cni (default dict (default dict .Values.flannel_cni).image) -}}
{{- if .repository -}}
{{ .repository }}:{{ required (printf "flannel.image_cni.tag: name the tag of %s" .repository) .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A probe of the daemon, which answers on the Node's loopback. */}}
{{- define "flanneld.probe" -}}
httpGet:
  host: 127.0.0.1
  path: {{ .path }}
  port: {{ .port }}
{{- with .times }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What a container may not do, but for its capabilities. */}}
{{- define "flanneld.confined" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}
