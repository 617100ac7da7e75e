{{- /*
Where LINSTOR is, as {"endpoint": ..., "clientSecret": ...} in JSON. What the values name counts;
otherwise the custom resources of Piraeus are asked, the newest kind first.
*/}}
{{- define "linstor-affinity-events.linstor" -}}
{{- $found := dict "endpoint" .Values.linstor.endpoint "clientSecret" .Values.linstor.clientSecret }}
{{- if not $found.endpoint }}
{{- $seen := fromJson (include "linstor-affinity-events.piraeus" .) }}
{{- if not $seen.endpoint }}
{{- $seen = fromJson (include "linstor-affinity-events.piraeus1" .) }}
{{- end }}
{{- if not $seen.endpoint }}
{{- fail "no LINSTOR was found: there is no LinstorCluster (piraeus.io/v1) with a controller Service, and no LinstorController (piraeus.linbit.com/v1, linstor.linbit.com/v1). Say where it is with linstor.endpoint, such as http://linstor-controller.piraeus-datastore.svc:3370 (and linstor.clientSecret for https). `helm template` sees no cluster, so it always needs it." }}
{{- end }}
{{- $_ := set $found "endpoint" $seen.endpoint }}
{{- if not $found.clientSecret }}
{{- $_ := set $found "clientSecret" $seen.clientSecret }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- /* LinstorCluster: a Service labelled with its name; TLS on 3371 if the API has it. */}}
{{- define "linstor-affinity-events.piraeus" -}}
{{- $found := dict "endpoint" "" "clientSecret" "" }}
{{- if .Capabilities.APIVersions.Has "piraeus.io/v1" }}
{{- $services := (lookup "v1" "Service" "" "").items }}
{{- range $cluster := (lookup "piraeus.io/v1" "LinstorCluster" "" "").items }}
{{- range $service := $services }}
{{- $labels := $service.metadata.labels | default dict }}
{{- if and (not $found.endpoint) (eq (get $labels "app.kubernetes.io/component") "linstor-controller") (eq (get $labels "app.kubernetes.io/instance") $cluster.metadata.name) }}
{{- $tls := dig "spec" "apiTLS" nil $cluster }}
{{- $host := printf "%s.%s.svc" $service.metadata.name $service.metadata.namespace }}
{{- if kindIs "map" $tls }}
{{- $_ := set $found "endpoint" (printf "https://%s:3371" $host) }}
{{- $_ := set $found "clientSecret" (get $tls "clientSecretName" | default "linstor-client-tls") }}
{{- else }}
{{- $_ := set $found "endpoint" (printf "http://%s:3370" $host) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- /* LinstorController of the operator's first generation: a Service of the same name. */}}
{{- define "linstor-affinity-events.piraeus1" -}}
{{- $found := dict "endpoint" "" "clientSecret" "" }}
{{- $root := . }}
{{- range $api := list "piraeus.linbit.com/v1" "linstor.linbit.com/v1" }}
{{- if $root.Capabilities.APIVersions.Has $api }}
{{- range $controller := (lookup $api "LinstorController" "" "").items }}
{{- if not $found.endpoint }}
{{- $host := printf "%s.%s.svc" $controller.metadata.name $controller.metadata.namespace }}
{{- $secret := dig "spec" "linstorHttpsClientSecret" "" $controller }}
{{- if $secret }}
{{- $_ := set $found "endpoint" (printf "https://%s:3371" $host) }}
{{- $_ := set $found "clientSecret" $secret }}
{{- else }}
{{- $_ := set $found "endpoint" (printf "http://%s:3370" $host) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}
