{{- /* The environment, given {"root": $, "command": ...} and what is found of LINSTOR. */}}
{{- define "linstor-affinity-events.env" -}}
{{- $root := .root }}
- name: LS_CONTROLLERS
  value: {{ .endpoint | quote }}
{{- with .serverName }}
- name: LS_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if .hasCa }}
- name: LS_ROOT_CA_FILE
  value: /etc/linstor-client/ca.crt
{{- end }}
{{- if .clientSecret }}
- name: LS_USER_CERTIFICATE_FILE
  value: /etc/linstor-client/tls.crt
- name: LS_USER_KEY_FILE
  value: /etc/linstor-client/tls.key
{{- end }}
{{- with $root.Values.linstor.loginSecret }}
{{- range $name, $key := dict "LS_USERNAME" "username" "LS_PASSWORD" "password" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.linstor.loginSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: LEASE_HOLDER_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: LEASE_LOCK_NAME
  value: {{ include "linstor-affinity-events.fullname" $root }}
- name: LINSTOR_AFFINITY_WATCH_LINSTOR_DATABASE
  value: {{ $root.Values.watchLinstorDatabase | quote }}
- name: LINSTOR_AFFINITY_STATUS_PAGE
  value: {{ $root.Values.statusPage | quote }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "linstor-affinity-events.mounts" -}}
{{- if or .clientSecret .ca }}
- name: linstor-client
  mountPath: /etc/linstor-client
  readOnly: true
{{- end }}
{{- /* Texts that are certificates are handed to OpenSSL as files. */}}
- name: tmp
  mountPath: /tmp
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "linstor-affinity-events.volumes" -}}
{{- if .ca }}
- name: linstor-client
  projected:
    sources:
      {{- with .clientSecret }}
      - secret:
          name: {{ . }}
          items:
            - {key: tls.crt, path: tls.crt}
            - {key: tls.key, path: tls.key}
      {{- end }}
      - {{ ternary "configMap" "secret" (eq (.ca.kind | default "Secret") "ConfigMap") }}:
          name: {{ .ca.name }}
          items:
            - key: {{ .ca.key | default "ca.crt" }}
              path: ca.crt
{{- else if .clientSecret }}
- name: linstor-client
  secret:
    secretName: {{ .clientSecret }}
{{- end }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What is the same in the Deployment, in the test and in a sidecar. */}}
{{- define "linstor-affinity-events.container" -}}
name: linstor-affinity-events
image: {{ include "linstor-affinity-events.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args:
  - {{ .command }}
  {{- range .arguments }}
  - {{ . | quote }}
  {{- end }}
  {{- with include "linstor-affinity-events.flags" .root }}
  {{- . | trim | nindent 2 }}
  {{- end }}
env:
  {{- include "linstor-affinity-events.env" . | trim | nindent 2 }}
volumeMounts:
  {{- include "linstor-affinity-events.mounts" . | trim | nindent 2 }}
{{- with include "linstor-affinity-events.withoutNulls" .root.Values.securityContext }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The part of a pod that a sidecar adds. */}}
{{- define "linstor-affinity-events.sidecar" -}}
containers:
  - {{- include "linstor-affinity-events.container" . | nindent 4 }}
    {{- with include "linstor-affinity-events.bindPort" .root }}
    livenessProbe:
      httpGet:
        path: /healthz
        port: {{ . }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    {{- end }}
    {{- with .root.Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
volumes:
  {{- include "linstor-affinity-events.volumes" . | trim | nindent 2 }}
{{- end }}
