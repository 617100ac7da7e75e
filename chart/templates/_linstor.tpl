{{- /*
Where LINSTOR is, as {"endpoint", "clientSecret", "ca", "hasCa", "serverName"} in JSON. What the values name
counts; what they leave open is taken from the custom resources of Piraeus.
*/}}
{{- define "linstor-affinity-events.linstor" -}}
{{- $given := .Values.linstor }}
{{- $candidates := fromJsonArray (include "linstor-affinity-events.candidates" .) }}
{{- $fits := list }}
{{- if not $given.endpoint }}
{{- $fits = $candidates }}
{{- else }}
{{- range $candidates }}
{{- if and .clientSecret (include "linstor-affinity-events.securedAt" (dict "endpoint" $given.endpoint "hosts" .hosts)) }}
{{- $fits = append $fits . }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt (len $fits) 1 }}
{{- $names := list }}
{{- range $fits }}
{{- $names = append $names (printf "%s at %s" .name .endpoint) }}
{{- end }}
{{- fail (printf "several LINSTORs were found: %s. Select one with linstor.endpoint, and linstor.clientSecret for https." (join ", " $names)) }}
{{- end }}
{{- if not (or $given.endpoint $fits) }}
{{- fail (printf "no LINSTOR was found in namespace %s: there is no LinstorCluster (piraeus.io/v1) with an external controller or a controller Service there, and no LinstorController (piraeus.linbit.com/v1, linstor.linbit.com/v1). Install the chart beside LINSTOR, name LINSTOR's namespace with linstor.namespace, or say where it is with linstor.endpoint, such as http://linstor-controller.piraeus-datastore.svc:3370 (and linstor.clientSecret for https). `helm template` sees no cluster, so it always needs the endpoint." (include "linstor-affinity-events.linstorNamespace" .)) }}
{{- end }}
{{- $seen := $fits | first | default dict }}
{{- include "linstor-affinity-events.reached" (dict "root" . "endpoint" ($given.endpoint | default $seen.endpoint) "seen" $seen) }}
{{- end }}

{{- /*
The same for a sidecar, which is beside its controller. With TLS the controller's certificate is for its Service, so
that is the name to expect in it.
*/}}
{{- define "linstor-affinity-events.linstorOfSidecar" -}}
{{- $endpoint := .Values.linstor.endpoint | default "http://localhost:3370" }}
{{- $seen := dict }}
{{- $candidates := fromJsonArray (include "linstor-affinity-events.candidates" .) }}
{{- if and (not .Values.linstor.endpoint) (eq (len $candidates) 1) }}
{{- $only := first $candidates }}
{{- if and $only.clientSecret $only.serverName }}
{{- $endpoint = "https://localhost:3371" }}
{{- $seen = $only }}
{{- end }}
{{- end }}
{{- include "linstor-affinity-events.reached" (dict "root" . "endpoint" $endpoint "seen" $seen "serverName" $seen.serverName) }}
{{- end }}

{{- /* An endpoint with the certificates for it, given {"root", "endpoint", "seen": a candidate or nothing}. */}}
{{- define "linstor-affinity-events.reached" -}}
{{- $given := .root.Values.linstor }}
{{- $secret := $given.clientSecret | default .seen.clientSecret | default "" }}
{{- $ca := $given.caReference | default .seen.ca | default dict }}
{{- $hasCa := or $ca $secret }}
{{- if and $secret (not $ca) }}
{{- $stored := (lookup "v1" "Secret" .root.Release.Namespace $secret).data }}
{{- if and $stored (not (hasKey $stored "ca.crt")) }}
{{- $hasCa = false }}
{{- end }}
{{- end }}
{{- dict "endpoint" .endpoint "clientSecret" $secret "ca" $ca "hasCa" (not (empty $hasCa)) "serverName" (.serverName | default "") | toJson }}
{{- end }}

{{- define "linstor-affinity-events.linstorNamespace" -}}
{{- .Values.linstor.namespace | default .Release.Namespace }}
{{- end }}

{{- /*
Whether one of the addresses of an endpoint is one of these hosts, and not plain HTTP; given {"endpoint", "hosts"}.
Without a scheme it is https as soon as there is a certificate.
*/}}
{{- define "linstor-affinity-events.securedAt" -}}
{{- $hosts := .hosts }}
{{- $found := "" }}
{{- range $address := splitList "," .endpoint }}
{{- $address = trim $address }}
{{- if not (regexMatch "^(http|linstor)://" $address) }}
{{- $host := include "linstor-affinity-events.hostOf" $address }}
{{- range $hosts }}
{{- if or (eq $host .) (and (hasSuffix ".svc" .) (hasPrefix (printf "%s." .) $host)) }}
{{- $found = "true" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $found }}
{{- end }}

{{- define "linstor-affinity-events.hostOf" -}}
{{- $bare := regexReplaceAll "^[a-z+]+://" . "" | trimSuffix "/" }}
{{- regexReplaceAll ":[0-9]+$" $bare "" }}
{{- end }}

{{- /*
All LINSTORs in the custom resources of Piraeus, each as {"name", "endpoint", "clientSecret", "ca", "hosts", "serverName"}, as an array in JSON.
A LinstorCluster belongs to no namespace; its controller's Service and everything older is looked for in LINSTOR's
namespace alone: in others, anyone who may create Services could offer one of their own.
*/}}
{{- define "linstor-affinity-events.candidates" -}}
{{- $namespace := include "linstor-affinity-events.linstorNamespace" . }}
{{- $found := list }}
{{- if .Capabilities.APIVersions.Has "piraeus.io/v1" }}
{{- $services := (lookup "v1" "Service" $namespace "").items }}
{{- range $cluster := (lookup "piraeus.io/v1" "LinstorCluster" "" "").items }}
{{- $name := printf "LinstorCluster %s" $cluster.metadata.name }}
{{- $spec := $cluster.spec | default dict }}
{{- $tls := get $spec "apiTLS" }}
{{- $secured := kindIs "map" $tls }}
{{- $secret := "" }}
{{- $ca := dict }}
{{- if $secured }}
{{- $secret = get $tls "clientSecretName" | default "linstor-client-tls" }}
{{- $ca = get $tls "caReference" | default dict }}
{{- end }}
{{- $external := get (get $spec "externalController" | default dict) "url" }}
{{- if $external }}
{{- $hosts := list (include "linstor-affinity-events.hostOf" $external) }}
{{- $found = append $found (dict "name" $name "endpoint" $external "clientSecret" $secret "ca" $ca "hosts" $hosts "serverName" "") }}
{{- else }}
{{- range $service := $services }}
{{- $labels := $service.metadata.labels | default dict }}
{{- if and (eq (get $labels "app.kubernetes.io/component") "linstor-controller") (eq (get $labels "app.kubernetes.io/instance") $cluster.metadata.name) }}
{{- $hosts := fromJsonArray (include "linstor-affinity-events.hostsOf" $service) }}
{{- $endpoint := ternary "https://%s:3371" "http://%s:3370" $secured | replace "%s" (last $hosts) }}
{{- $found = append $found (dict "name" $name "endpoint" $endpoint "clientSecret" $secret "ca" $ca "hosts" $hosts "serverName" (last $hosts)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $api := list "piraeus.linbit.com/v1" "linstor.linbit.com/v1" }}
{{- if $.Capabilities.APIVersions.Has $api }}
{{- range $controller := (lookup $api "LinstorController" $namespace "").items }}
{{- $secret := get ($controller.spec | default dict) "linstorHttpsClientSecret" }}
{{- $hosts := fromJsonArray (include "linstor-affinity-events.hostsOf" $controller) }}
{{- $endpoint := ternary "http://%s:3370" "https://%s:3371" (empty $secret) | replace "%s" (last $hosts) }}
{{- $name := printf "LinstorController %s" $controller.metadata.name }}
{{- $found = append $found (dict "name" $name "endpoint" $endpoint "clientSecret" $secret "ca" dict "hosts" $hosts "serverName" (last $hosts)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- /* The names by which pods reach a Service, or what is of its name, the longest one last. */}}
{{- define "linstor-affinity-events.hostsOf" -}}
{{- $name := .metadata.name }}
{{- $namespace := .metadata.namespace }}
{{- list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) | toJson }}
{{- end }}
