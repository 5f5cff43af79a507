// Package helmrelease keeps the types from which the HelmRelease CRD is made among the requirements.
package helmrelease

import _ "github.com/fluxcd/helm-controller/api/v2"
