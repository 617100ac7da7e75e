{{- define "linstor-affinity-events.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "linstor-affinity-events.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "linstor-affinity-events.selectorLabels" -}}
app.kubernetes.io/name: {{ include "linstor-affinity-events.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "linstor-affinity-events.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "linstor-affinity-events.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "linstor-affinity-events.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{- /* The account that the service runs with, and that gets the roles. */}}
{{- define "linstor-affinity-events.serviceAccountName" -}}
{{- if eq .Values.mode "sidecar" }}
{{- .Values.sidecar.serviceAccountName }}
{{- else if .Values.serviceAccount.create }}
{{- default (include "linstor-affinity-events.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* How many instances there are at least; 0 in a sidecar, which is not ours to count. */}}
{{- define "linstor-affinity-events.instances" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}{{ else }}{{ .Values.replicaCount }}{{ end }}
{{- end }}

{{- /* The port of an address such as [::]:8000 or :8000; none if it is off, or reached from the pod alone. */}}
{{- define "linstor-affinity-events.reachablePort" -}}
{{- if not (regexMatch "^(127\\.|localhost:|\\[::1\\]:)" .) }}
{{- regexFind "[0-9]+$" . }}
{{- end }}
{{- end }}

{{- /* The port of probes, none if it is switched off. Without a value the service's default holds. */}}
{{- define "linstor-affinity-events.bindPort" -}}
{{- $address := .Values.options.bindAddress }}
{{- if kindIs "invalid" $address }}
{{- $address = "[::]:8000" }}
{{- end }}
{{- $port := include "linstor-affinity-events.reachablePort" $address }}
{{- if and $address (not $port) }}
{{- fail (printf "options.bindAddress %s is a loopback address, which the kubelet can't probe: use one such as [::]:8000, or an empty one for a pod without probes" $address) }}
{{- end }}
{{- $port }}
{{- end }}

{{- define "linstor-affinity-events.metricsPort" -}}
{{- include "linstor-affinity-events.reachablePort" (.Values.options.metricsAddress | default "") }}
{{- end }}

{{- /* Whether a value of auto, true or false means yes, given {"value": ..., "auto": what auto means}. */}}
{{- define "linstor-affinity-events.isOn" -}}
{{- if eq (toString .value) "auto" }}
{{- ternary "true" "" .auto }}
{{- else if eq (toString .value) "true" -}}
true
{{- end }}
{{- end }}

{{- /* Flags from .Values.options: a key in camel case is a flag in kebab case. Those that are empty are left out,
but for an address, which is switched off by that. */}}
{{- define "linstor-affinity-events.flags" -}}
{{- range $key, $value := .Values.options }}
{{- if and (not (kindIs "invalid" $value)) (or (ne (toString $value) "") (hasSuffix "Address" $key)) }}
{{- /* Numbers from a values file are floats to Helm; whole ones must not be written as 1e+06. */}}
- {{ printf "--%s=%s" ($key | kebabcase) (ternary (printf "%.0f" (toString $value | float64)) (toString $value) (kindIs "float64" $value)) | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A map as YAML, without the keys that are null; nothing if no key is left. Helm itself drops a null only
where the chart has a default for the key. */}}
{{- define "linstor-affinity-events.withoutNulls" -}}
{{- $kept := dict }}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $kept $key $value }}
{{- end }}
{{- end }}
{{- with $kept }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- /* Whether instances elect a leader, as the service does if nobody says otherwise. */}}
{{- define "linstor-affinity-events.leaderElection" -}}
{{- if ne (toString .Values.options.leaderElection) "false" -}}
true
{{- end }}
{{- end }}

{{- define "linstor-affinity-events.leaseName" -}}
{{- .Values.options.leaseLockName | default (include "linstor-affinity-events.fullname" .) }}
{{- end }}

{{- define "linstor-affinity-events.leaseNamespace" -}}
{{- .Values.options.leaseLockNamespace | default .Release.Namespace }}
{{- end }}

{{- define "linstor-affinity-events.journalNamespace" -}}
{{- .Values.options.journalNamespace | default (include "linstor-affinity-events.leaseNamespace" .) }}
{{- end }}

{{- /* The account as the API server names it. */}}
{{- define "linstor-affinity-events.username" -}}
{{- printf "system:serviceaccount:%s:%s" .Release.Namespace (include "linstor-affinity-events.serviceAccountName" .) }}
{{- end }}

{{- define "linstor-affinity-events.admissionPolicies" -}}
{{- $served := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" }}
{{- include "linstor-affinity-events.isOn" (dict "value" .Values.rbac.admissionPolicy.enabled "auto" $served) }}
{{- end }}

{{- /* The fields of a CSI volume that refer to Secrets. */}}
{{- define "linstor-affinity-events.secretFields" -}}
{{- list "controllerPublishSecretRef" "nodeStageSecretRef" "nodePublishSecretRef" "controllerExpandSecretRef" "nodeExpandSecretRef" | toJson }}
{{- end }}
